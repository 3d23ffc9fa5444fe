"""Does a real YAML language server accept every recipe by the schema, and see what is wrong with others?

It needs Node's `yaml-language-server` on the PATH: `npm install -g yaml-language-server`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wrong_recipes import CHANGED, GOOD

ROOT = Path(__file__).parents[2]
SERVER = shutil.which("yaml-language-server")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SERVER is None, reason="no yaml-language-server here")]

LINE = "# yaml-language-server: $schema=../schemas/recipe.schema.json\n"
SEEN = ["misspelt_section", "misspelt_key", "misspelt_key_in_braces", "misspelt_key_of_base", "misspelt_key_of_prior",
        "misspelt_key_of_images", "misspelt_component", "misspelt_extends", "misspelt_profiles",
        "key_of_another_section", "word_of_another_trainer", "word_of_peft", "word_for_the_denoiser", "capitals",
        "text_for_a_number", "fraction_for_a_whole", "zero_steps", "negative_rate", "list_for_a_number",
        "mapping_for_a_number", "text_for_a_section", "list_for_a_section", "resolution_too_small", "wrong_family",
        "wrong_schema", "name_with_a_slash", "wrong_device", "wrong_seed", "no_name", "no_path", "wrong_union_tag",
        "key_twice", "open_bracket", "wrong_in_a_profile"]


class Server:
    """A language server that is spoken to over its standard streams."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.process = subprocess.Popen([str(SERVER), "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.call("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": {}})
        self.tell("initialized", {})

    def call(self, method: str, params: object) -> Any:
        self.number += 1
        self._send({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        while (message := self._receive()).get("id") != self.number or "method" in message:
            self._answer(message)
        return message.get("result")

    def tell(self, method: str, params: object) -> None:
        self._send({"jsonrpc": "2.0", "method": method, "params": params})

    def problems(self, name: str, text: str) -> list[str]:
        uri = (self.folder / f"{name}.yaml").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self.tell("textDocument/didOpen", {"textDocument": document})
        while True:
            message = self._receive()
            if message.get("method") == "textDocument/publishDiagnostics" and message["params"]["uri"] == uri:
                return [found["message"] for found in message["params"]["diagnostics"]]
            self._answer(message)

    def at(self, what: str, name: str, line: int, column: int) -> Any:
        return self.call(f"textDocument/{what}", {"textDocument": {"uri": (self.folder / f"{name}.yaml").as_uri()},
                                                  "position": {"line": line, "character": column}})

    def _answer(self, message: dict[str, Any]) -> None:
        if "method" in message and "id" in message:
            many = len(message["params"]["items"]) if message["method"] == "workspace/configuration" else 0
            self._send({"jsonrpc": "2.0", "id": message["id"], "result": [None] * many or None})

    def _send(self, message: object) -> None:
        body = json.dumps(message).encode()
        assert self.process.stdin
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout
        length = 0
        while (line := self.process.stdout.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return json.loads(self.process.stdout.read(length))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = tmp_path_factory.mktemp("editor")
    shutil.copytree(ROOT / "schemas", project / "schemas")
    (project / "recipes").mkdir()
    server = Server(project / "recipes")
    yield server
    server.process.kill()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_right(server: Server, recipe: Path) -> None:
    assert server.problems(recipe.stem, recipe.read_text()) == []


def test_profiles_variables_and_references_are_right(server: Server) -> None:
    assert server.problems("all", LINE + GOOD.replace("steps: 300", "steps: ${seed}") + "seed: 3\nenv: [DATA]\n"
                           "profiles: {ci: {train: {steps: 3}}}\n") == []


@pytest.mark.parametrize("name", SEEN)
def test_a_wrong_recipe_is_underlined(server: Server, name: str) -> None:
    old, new = CHANGED[name]
    assert server.problems(f"wrong_{name}", LINE + GOOD.replace(old, new, 1)) != []


@pytest.mark.parametrize(("old", "new", "told"), [
    ("rank: 16", "rank: 16, factor: 3", "Property factor is not allowed."),
    ("type: lora", "type: loar", 'Value must be "loha" | "lokr" | "lora".'),
    ("type: lora, ", "", 'Missing property "type".'),
    ("steps: 300", "schedule: {type: cosine, warmup: 3}", "Property warmup is not allowed."),
    ("steps: 300", "schedule: cosine", 'Incorrect type. Expected "mapping with a `type`".'),
    ("steps: 300", "optimizer: {type: adamw, beta1: x}", 'Incorrect type. Expected "number".'),
    ("prior:", "  captions: {type: filenam}\nprior:",
     'Value must be "sidecar" | "metadata" | "filename" | "prompt".')])
def test_what_is_wrong_in_one_of_several_parts_is_told_of_that_part(server: Server, old: str, new: str,
                                                                    told: str) -> None:
    assert server.problems(f"part_{abs(hash(new))}", LINE + GOOD.replace(old, new, 1)) == [told]


@pytest.mark.parametrize(("typed", "offered", "not_offered"), [
    ("denoiser: {type: l", {"loha", "lokr", "lora"}, {"full", "oft"}),
    ("denoiser: {type: lokr, f", {"factor", "rank"}, {"dora", "block_size", "type"}),
    ("denoiser: {rank: 4, t", {"type", "targets"}, {"rank"}),
    ("denoiser:\n    ", {"type", "rank", "factor"}, {"steps"}),
    ("denoiser:\n    type: ", {"full", "loha", "lokr", "lora", "oft"}, {"rank"})])
def test_the_keys_of_a_part_are_completed(server: Server, typed: str, offered: set[str],
                                          not_offered: set[str]) -> None:
    head, _, rest = (LINE + GOOD).partition("denoiser: {type: lora, rank: 16, targets: all}")
    close, name = "}" * typed.count("{"), f"typed_{abs(hash(typed))}"
    server.problems(name, head + typed + close + rest)
    line = (head + typed).count("\n")
    found = server.at("completion", name, line, len((head + typed).splitlines()[-1]))
    labels = {item["label"] for item in found["items"]}
    assert offered <= labels and not not_offered & labels


def test_keys_are_completed_and_explained(server: Server) -> None:
    text = LINE + GOOD + "train2:\n"
    server.problems("typing", text.replace("train2:", "sam"))
    offered = server.at("completion", "typing", len(text.splitlines()) - 1, 3)
    assert "samples" in {item["label"] for item in offered["items"]}
    server.problems("hover", LINE + GOOD)
    told = server.at("hover", "hover", GOOD.splitlines().index("  learning_rate: 1e-4") + 1, 5)
    assert "peak learning rate" in json.dumps(told)
