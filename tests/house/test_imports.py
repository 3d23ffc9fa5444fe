"""The order of the packages: imports go downwards, in no circle, and heavy packages load late."""

from package_source import FILES, MODULES, circles, imported_names, module_name, own_imports, package_of, place

LAYERS = [["cli"], ["engines"], ["api"], ["ui"], ["use"], ["run", "workers"], ["plan"], ["resolve"], ["store"],
          ["stages"], ["recipe"], ["formats"], ["training"],
          ["models", "adapters", "scores", "options", "images", "embedded"], ["diffusion"],
          ["config_types", "errors", "events", "seeds", "secrets", "fsync", "disk_space", "safetensors_header",
           "library_versions", "naming", "pace", "peak_memory", "workload", "input_file", "provenance_check",
           "finite_weights", "expectations"]]
"""Upper to lower; a module imports from its own row and from those below."""
RANK = {name: number for number, row in enumerate(LAYERS) for name in row}
ABOVE_ALL = {"", "__main__"}
"""The package itself, which loads what it offers when it is asked for, and the program."""
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "safetensors", "rich", "omegaconf", "PIL"}
TORCH_AT_HOME = {"diffusion", "training", "embedded"}
MAY_TRAIN = {"training", "use", "stages", "formats", "embedded"}
"""Packages that may reach for the training loop's own; whoever plans or prints has no need to."""
SETTINGS = "dbrun.training.settings"
"""The settings of a training, which know no torch: a recipe is made of them."""

KNOWN_UPWARD: set[str] = set()
KNOWN_CIRCLES: list[list[str]] = []
"""What is still to be cut. Whoever cuts one deletes it here; nobody adds one."""


def test_every_package_has_a_layer() -> None:
    assert {package_of(name) for name in MODULES} - ABOVE_ALL <= set(RANK)


def test_no_module_imports_from_a_layer_above() -> None:
    upward = set()
    for path in FILES:
        here = module_name(path)
        if package_of(here) in ABOVE_ALL:
            continue
        for other in own_imports(path):
            # the package holds the version and the API, no module of its own
            if package_of(other) and RANK[package_of(other)] < RANK[package_of(here)]:
                upward.add(f"{here} imports {other}")
    assert upward == KNOWN_UPWARD


def test_no_modules_import_each_other() -> None:
    graph = {module_name(path): sorted(own_imports(path)) for path in FILES}
    assert circles(graph) == KNOWN_CIRCLES


def test_a_circle_is_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a", "d"]}) == [["b", "c"]]


def test_heavy_packages_load_late() -> None:
    """Importing a module that is not torch's home imports no heavy package, neither itself nor by what it imports."""
    heavy, needs = {}, {}
    for path in FILES:
        roots = {name.partition(".")[0] for name in imported_names(path, at_import=True)}
        heavy[module_name(path)] = roots & HEAVY
        needs[module_name(path)] = own_imports(path, at_import=True)
    for name in MODULES:
        if package_of(name) in TORCH_AT_HOME:
            continue
        reached, waiting = {name}, [name]
        while waiting:
            for other in needs[waiting.pop()] - reached:
                reached.add(other)
                waiting.append(other)
        loaded = {other: heavy[other] for other in reached if heavy[other]}
        assert not loaded, f"importing {name} imports {loaded}"


def test_only_who_trains_reaches_for_training() -> None:
    for path in FILES:
        if package_of(module_name(path)) in MAY_TRAIN:
            continue
        reached = [name for name in own_imports(path) if package_of(name) == "training" and name != SETTINGS]
        assert not reached, f"{place(path)} imports {reached}"
