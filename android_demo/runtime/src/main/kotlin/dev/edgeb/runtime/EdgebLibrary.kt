package dev.edgeb.runtime

import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode

/** Load libedgeb.so, which has the native side of both engines. */
internal fun loadEdgeb() {
    try {
        System.loadLibrary("edgeb")
    } catch (error: UnsatisfiedLinkError) {
        throw EdgebException(
            "the native library does not load: ${error.message}", "package libedgeb.so for this device",
            ErrorCode.ENGINE_MISSING
        )
    }
}
