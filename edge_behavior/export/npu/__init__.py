"""Contexts for phones' NPUs beside a LiteRT bundle: compiled by Qualcomm's compiler, compared under its emulator."""
