"""The packaging check with this machine's JNI library: no phone can run what it makes, but the steps are an APK's."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.android import host

SCRIPT = host.ANDROID / "prove" / "apk.sh"
APK = host.ANDROID / "build" / "apk" / "edgeb-check.apk"
WHY_NOT = host.missing("kotlinc")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


def data_at(apk: zipfile.ZipFile, name: str) -> int:
    """Where an entry's bytes begin in the file."""
    at = apk.getinfo(name).header_offset
    assert apk.fp is not None
    apk.fp.seek(at)
    name_size, extra_size = struct.unpack_from("<HH", apk.fp.read(30), 26)
    return int(at + 30 + name_size + extra_size)


def test_apk(tmp_path: Path) -> None:
    shutil.copy(host.build_native() / "libedgeb.so", tmp_path)
    done = subprocess.run(
        [str(SCRIPT)], capture_output=True, text=True, check=False, env={**os.environ, "EDGEB_APK_LIBS": str(tmp_path)}
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "targetSdkVersion:'36'" in done.stdout
    assert "permissions asked for: 0" in done.stdout
    assert "suggestion_widget.xml widgetCategory not_keyguard" in done.stdout
    assert "(APK Signature Scheme v3): true" in done.stdout
    assert "cannot load on Android" in done.stdout
    with zipfile.ZipFile(APK) as apk:
        names = apk.namelist()
        abi = {"aarch64": "arm64-v8a"}.get(platform.machine(), platform.machine())
        assert {"AndroidManifest.xml", "classes.dex", "resources.arsc", f"lib/{abi}/libedgeb.so"} <= set(names)
        # Licenses of what is native in it.
        assert "dev/edgeb/runtime/licenses/llama.cpp.txt" in names
        for name in names:
            stored = apk.getinfo(name).compress_type == zipfile.ZIP_STORED
            if name.endswith((".so", ".arsc")):
                assert stored, name
            if name.endswith(".so"):
                assert data_at(apk, name) % 16384 == 0, name
