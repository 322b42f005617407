"""A pickle reader that cannot run anything: it interprets the opcodes itself, over a closed list of names.

By hand, as a few bytes of input can make `pickle.Unpickler` allocate gigabytes, whatever its `find_class`.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from zoo.errors import FormatError

MAX_BYTES = 64 << 20
MAX_OPCODES = 5_000_000
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_FRESH: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Placeholder("builtins.set"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
    + ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
    + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
)
_KEY_TYPES = (str, bytes, int, float, type(None))
_MAX_BITS = 128
_MAX_NAME = 200
_MARK = object()
# Functions by which pickles make an object of the class that is their first argument.
_CONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")


class Placeholder:
    """Stands for an object that was not read: it has a name, no content and no behaviour.

    Args:
        name: "module.name" of the class or function that the object would have been made with.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        cut = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."
        self.name = cut if cut.isprintable() else ascii(cut)

    def __repr__(self) -> str:
        return f"<unread {self.name}>"


class SafePickle:
    """Reads one pickle of tensors and containers from a file.

    A name that is not known becomes a `Placeholder`. So does what is made by calling one, or by calling a
    known function on one; what is filled into one is dropped.

    Args:
        file: binary file, positioned at the pickle's start; afterwards just behind its end.
        known: "module.name" -> what stands for it: a function that REDUCE may call, or any other value.
        persistent: makes an object of a persistent id.

    Raises:
        FormatError: from `load`, where the pickle is damaged or too large, or builds something by other means
            than a name.
    """

    def __init__(self, file: BinaryIO, known: Mapping[str, Any], persistent: Callable[[Any], Any]):
        self._file = _BoundedReader(file, MAX_BYTES)
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(Any, self._file))):
                if count > MAX_OPCODES:
                    raise FormatError(f"The pickle has more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except FormatError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"The pickle is damaged ({type(error).__name__}: {error})") from error
        raise FormatError("The pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
                raise FormatError(f"The pickle has an integer of {argument.bit_length()} bits")
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _FRESH:
            self._stack.append(_FRESH[name]())
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif (method := getattr(self, f"_op_{name.lower()}", None)) is not None:
            method(argument)
        else:
            raise FormatError(f"The pickle uses {name}, which neither tensors nor containers need: refused")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise FormatError("The pickle is damaged (a mark where a value should be)")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _top(self, kind: type) -> Any:
        """What is to be filled, a `kind`; None for a placeholder."""
        value = self._stack[-1]
        if isinstance(value, Placeholder):
            return None
        if not isinstance(value, kind):
            raise FormatError(f"The pickle fills a {type(value).__name__} as a {kind.__name__}: refused")
        return value

    def _op_proto(self, version):
        if version > 5:
            raise FormatError(f"The pickle has protocol {version}; known are 0 to 5")

    def _op_frame(self, _):
        pass

    def _op_mark(self, _):
        self._stack.append(_MARK)

    def _op_pop(self, _):
        self._stack.pop()

    def _op_pop_mark(self, _):
        self._pop_to_mark()

    def _op_tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _op_list(self, _):
        self._stack.append(self._pop_to_mark())

    def _op_append(self, _):
        self._extend([self._pop()])

    def _op_appends(self, _):
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        if (target := self._top(list)) is not None:
            target.extend(values)

    def _op_additems(self, _):
        self._pop_to_mark()
        if not isinstance(self._stack[-1], Placeholder):  # EMPTY_SET made one
            raise FormatError("The pickle adds to a set that is not one: refused")

    def _op_frozenset(self, _):
        self._pop_to_mark()
        self._stack.append(Placeholder("builtins.frozenset"))

    def _op_dict(self, _):
        pairs = self._pop_to_mark()
        self._stack.append({})
        self._set_items(pairs)

    def _op_setitem(self, _):
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _op_setitems(self, _):
        self._set_items(self._pop_to_mark())

    def _set_items(self, pairs: list[Any]) -> None:
        if (target := self._top(dict)) is None:
            return
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, tuple):  # a nested one can take for ever to hash
                key = Placeholder("builtins.tuple")
            if not isinstance(key, (*_KEY_TYPES, Placeholder)):
                raise FormatError(f"The pickle has a dict key of type {type(key).__name__}: refused")
            target[key] = value

    def _op_memoize(self, _):
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_put(self, index):
        self._memo[index] = self._stack[-1]

    def _op_get(self, index):
        self._stack.append(self._memo[index])

    _op_binput = _op_long_binput = _op_put
    _op_binget = _op_long_binget = _op_get

    def _op_global(self, argument):
        self._push_known(argument.replace(" ", ".", 1))

    def _op_stack_global(self, _):
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):  # a nested tuple takes for ever to print
            raise FormatError("The pickle asks for a name that is not text: refused")
        self._push_known(f"{module}.{name}")

    def _push_known(self, name: str) -> None:
        self._stack.append(self._known[name] if name in self._known else Placeholder(name))

    def _op_reduce(self, _):
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise FormatError("The pickle calls something with arguments that are not a tuple: refused")
        self._stack.append(self._made(function, arguments))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _):
        self._pop()
        self._op_reduce(None)

    def _op_inst(self, argument):
        arguments = tuple(self._pop_to_mark())
        self._push_known(argument.replace(" ", ".", 1))
        self._stack.append(self._made(self._pop(), arguments))

    def _op_obj(self, _):
        function, *arguments = self._pop_to_mark()
        self._stack.append(self._made(function, tuple(arguments)))

    def _made(self, function: Any, arguments: tuple) -> Any:
        """What a call gives: of a known function its value, unless that would be made of a placeholder."""
        first = arguments[0] if arguments else None
        if isinstance(function, Placeholder):
            return first if function.name in _CONSTRUCTORS and isinstance(first, Placeholder) else function
        if not callable(function) or not any(function is known for known in self._known.values()):
            raise FormatError("The pickle calls something that is not on the list: refused")
        return first if isinstance(first, Placeholder) else function(*arguments)

    def _op_build(self, _):
        """Attributes of an OrderedDict (PyTorch's `_metadata`) or of a placeholder: read and dropped."""
        self._pop()
        self._top(dict)

    def _op_binpersid(self, _):
        self._stack.append(self._persistent(self._pop()))


class _BoundedReader:
    """Reads a file without ever asking for more than it has left, or than `limit` bytes in all."""

    def __init__(self, file: BinaryIO, limit: int):
        self._file = file
        start = file.tell()
        self._end = min(file.seek(0, 2), start + limit)
        file.seek(start)

    def _clip(self, size: int) -> int:
        left = self._end - self._file.tell()
        if left <= 0:
            raise FormatError("The file is cut short: it ends, or grows too large, within a pickle")
        return min(size, left)

    def read(self, size: int) -> bytes:
        return self._file.read(self._clip(size)) if size else b""

    def readline(self) -> bytes:
        return self._file.readline(self._clip(1 << 16))

    def tell(self) -> int:
        return self._file.tell()
