"""`dataclass`, as the standard library has it, but cheap to define where values are frozen.

`dataclasses` writes six methods for each frozen class and compiles them, which for a hundred and fifty classes is a
fifth of the time that `dbrun plan` takes. Here the classes share their methods. What they do is the same, and so are
`fields`, `replace` and `asdict`, which only ask for `__dataclass_fields__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses
    from operator import attrgetter

    def dataclass(*, frozen: bool):
        """A class decorator: frozen values with a constructor, equality, a hash and a repr."""
        assert frozen, "the standard library's is for what changes"
        return _value

    def _value(kind):
        dataclasses.dataclass(init=False, repr=False, eq=False)(kind)
        known = dataclasses.fields(kind)
        names = tuple(field.name for field in known)
        members = (lambda value: ()) if not names else (
            attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),))
        methods = {"__init__": _constructor(known, names, getattr(kind, "__post_init__", None)),
                   "__repr__": _written, "__setattr__": _refuse, "__delattr__": _refuse,
                   "__eq__": lambda self, other: members(self) == members(other) if type(self) is type(other)
                   else NotImplemented,
                   "__hash__": lambda self: hash(members(self))}
        for name, method in methods.items():
            if name not in vars(kind) or vars(kind)[name] is None:
                setattr(kind, name, method)
        return kind

    def _constructor(known, names, then):
        usual = {field.name: field.default for field in known}
        made = {field.name: field.default_factory for field in known
                if field.default_factory is not dataclasses.MISSING}
        needed = [name for name in names if usual[name] is dataclasses.MISSING and name not in made]

        def __init__(self, *args, **named):
            state = self.__dict__
            state.update(usual)
            state.update(zip(names, args))  # noqa: B905 - what is beyond is found below
            state.update(named)
            if len(state) > len(names) or len(args) > len(names) or not named.keys().isdisjoint(names[:len(args)]):
                raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, each once")
            if len(args) + len(named) < len(names):
                for name, make in made.items():
                    if state[name] is dataclasses.MISSING:
                        state[name] = make()
                if lacking := [name for name in needed if state[name] is dataclasses.MISSING]:
                    raise TypeError(f"{type(self).__name__} lacks {', '.join(lacking)}")
            if then is not None:
                then(self)

        return __init__

    def _written(self):
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"{type(self).__qualname__}({told})"

    def _refuse(self, name, *value):
        raise dataclasses.FrozenInstanceError(f"cannot change {name!r} of a {type(self).__name__}")
