"""Compiled NPU contexts: run by Qualcomm's emulator, in a process of its own."""
