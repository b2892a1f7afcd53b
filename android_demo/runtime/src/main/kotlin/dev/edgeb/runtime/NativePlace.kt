package dev.edgeb.runtime

import dev.edgeb.core.EdgebException
import dev.edgeb.core.ErrorCode
import dev.edgeb.core.ModelSource
import java.io.FileDescriptor
import java.nio.ByteBuffer

/** Where a model's bytes are, as the native side takes it: a path, an open file, or memory. */
internal class NativePlace private constructor(
    val path: ByteArray?,
    val descriptor: FileDescriptor?,
    val start: Long,
    val length: Long,
    val content: ByteBuffer?
) {
    companion object {
        /** @throws EdgebException memory that native code cannot see. */
        fun of(model: ModelSource): NativePlace = when (model) {
            is ModelSource.InFile -> NativePlace(utf8(model.path.path), null, 0, -1, null)
            is ModelSource.InDescriptor -> NativePlace(null, model.descriptor, model.start, model.length, null)
            is ModelSource.InBuffer -> {
                if (!model.content.isDirect) {
                    throw EdgebException(
                        "$model lies in an array, which native code cannot read", "pass a direct or a mapped buffer",
                        ErrorCode.INVALID_ARGUMENT
                    )
                }
                NativePlace(null, null, 0, -1, model.content)
            }
        }
    }
}
