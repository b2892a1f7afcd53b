"""SwiftShader, a GPU in software: Debian's `chromium` brings it, its `libvulkan1` finds it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

# What the Vulkan loader reads, an older and a newer name.
VARIABLES = ("VK_ICD_FILENAMES", "VK_DRIVER_FILES")
_DEBIANS = "/usr/lib/chromium/vk_swiftshader_icd.json"


def require_adapter(patch: pytest.MonkeyPatch) -> None:
    """Have LiteRT's GPU accelerator find it, or skip; $VK_DRIVER_FILES may name another."""
    driver = Path(os.environ.get(VARIABLES[1], _DEBIANS))
    if not driver.is_file():
        pytest.skip(f"no software adapter at {driver}: apt-get install chromium libvulkan1")
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError:
        pytest.skip("no Vulkan loader: apt-get install libvulkan1")
    for name in VARIABLES:
        patch.setenv(name, str(driver))
