"""Arrays of the host as LiteRT's tensor buffers, without a copy, by LiteRT's C library.

`TensorBuffer.create_from_host_memory` of ai-edge-litert 2.3 forgets the shape, and LiteRT refuses such a buffer for all
but flat tensors. So the tensor's type is taken from a buffer that LiteRT itself made.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.litert.buffers import ALIGNMENT

# As the package names the capsules that hold a buffer.
_CAPSULE = b"LiteRtTensorBuffer"
# Room for the C structure of a tensor's type, which is passed on unread.
_TYPE_BYTES = 256


class HostMemory:
    """Wraps arrays as buffers.

    Args:
        litert: The package.

    Raises:
        EdgebError: it has no C library beside it.
    """

    def __init__(self, litert: Any) -> None:
        folder = Path(litert.__file__).parent
        found = sorted(file for file in folder.iterdir() if file.stem in ("libLiteRt", "LiteRt"))
        if not found:
            raise EdgebError("ai-edge-litert has no LiteRT library", "install ai-edge-litert again")
        self._library = ctypes.CDLL(str(found[0]))
        self._buffer = litert.tensor_buffer.TensorBuffer

    def wrap(self, array: NDArray[Any], like: Any) -> Any:
        """A buffer over an array, which the caller keeps alive, and the buffer until `free`.

        Args:
            array: Aligned, contiguous, of the tensor's type.
            like: A buffer that LiteRT made for the tensor.

        Raises:
            EdgebError: LiteRT does not take it.
        """
        assert array.flags.c_contiguous
        assert array.ctypes.data % ALIGNMENT == 0
        type_, made = ctypes.create_string_buffer(_TYPE_BYTES), ctypes.c_void_p()
        pointer = ctypes.c_void_p(_pointer(like.capsule, _CAPSULE))
        status = self._library.LiteRtGetTensorBufferTensorType(pointer, type_)
        if status == 0:
            status = self._library.LiteRtCreateTensorBufferFromHostMemory(
                type_, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), None, ctypes.byref(made)
            )
        if status != 0:
            raise EdgebError(f"LiteRT takes no memory of the host (status {status})", "install ai-edge-litert 2.3")
        return self._buffer(_new_capsule(made, _CAPSULE, None))

    def free(self, buffer: Any) -> None:
        """Free what `wrap` made, but not the array."""
        self._library.LiteRtDestroyTensorBuffer(ctypes.c_void_p(_pointer(buffer.capsule, _CAPSULE)))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.argtypes, _new_capsule.restype = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p), ctypes.py_object
