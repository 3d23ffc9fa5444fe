"""The verbs that use trained adapters: `sample`, `evaluate`, `merge`, `convert` and `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbrun.cli.app import Json, app
from dbrun.errors import ExpectationMissed

Base = Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base: embedded, a folder, a "
                                          ".safetensors file, or owner/name@revision. Default: the base that the "
                                          "adapter was trained on.")]
Like = Annotated[str | None, typer.Option("--like", metavar="BASE", help="For a base in one file: a folder, or "
                                          "owner/name@commit, with its tokenizer. Default: the base that the adapter "
                                          "was trained on.")]

To = Annotated[str, typer.Option("--to", metavar="FORMAT", help="diffusers, kohya or peft.")]


@app.command()
def sample(
        words: Annotated[list[str], typer.Argument(
            help="Adapters (a file, or a folder that a run wrote), each with an optional weight, then the prompt.",
            metavar="ADAPTER[:WEIGHT]… PROMPT", show_default=False)],
        count: Annotated[int, typer.Option("-n", min=1, max=64, metavar="N",
                                               help="Number of pictures; each has the next seed.")] = 4,
        seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the first picture.")] = 0,
        each: Annotated[bool, typer.Option("--each", help="A row for the base and for each adapter alone; without it "
                                           "all adapters act together.")] = False,
        steps: Annotated[int | None, typer.Option("--steps", min=1, max=1000, metavar="N",
                                                  help="Sampler steps.")] = None,
        guidance: Annotated[float | None, typer.Option("--guidance", min=0.0, metavar="X",
                                                       help="Classifier-free guidance.")] = None,
        resolution: Annotated[int | None, typer.Option("--resolution", min=8, metavar="N",
                                                       help="Side in pixels.")] = None,
        precision: Annotated[str, typer.Option("--precision", metavar="WORD", help="fp32, bf16 or fp16.")] = "fp32",
        base: Base = None, like: Like = None,
        output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write. "
                                                    "Default: samples/ and the prompt.")] = None) -> None:
    """Draw a prompt with adapters over one base.

    The base is loaded once; adapters may have any weight, and other programs' files (kohya, diffusers, PEFT) work too.
    """
    from dbrun.cli.using import draw_samples
    from dbrun.use.sample import SampleRequest

    wish = SampleRequest("", count, seed, steps, guidance, resolution, each)
    draw_samples(words, wish, base, like, precision, output)


@app.command()
def evaluate(
        adapters: Annotated[list[str], typer.Argument(
            help="Adapters (a file, or a folder that a run wrote), each with an optional weight.",
            metavar="ADAPTER[:WEIGHT]…", show_default=False)],
        like: Annotated[Path, typer.Option("--like", metavar="RECIPE", show_default=False,
                                           help="The recipe whose `evaluate` says how: its base, prompts, seeds, "
                                                "encoders and expectations.")],
        json: Json = False) -> None:
    """Score adapters as a recipe's stage `evaluate` would, one by one.

    Other programs' files (kohya, diffusers, PEFT) work too. Exit code 4: one is below what the recipe expects.
    """
    from dbrun.cli.scoring import show_scores

    if not show_scores(adapters, like, as_json=json):
        raise typer.Exit(ExpectationMissed.exit_code)


@app.command()
def merge(adapters: Annotated[list[str], typer.Argument(help="Adapters, each with an optional weight.",
                                                        metavar="ADAPTER[:WEIGHT]…", show_default=False)],
          output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="What to write.",
                                               show_default=False)],
          how: Annotated[str, typer.Option("--how", metavar="WORD",
                                           help="concatenated (LoRAs: exact, ranks add up), linear (LoRAs: of the "
                                           "same rank) or full (any types, also one alone: exact, as large as the "
                                           "layers that change).")] = "concatenated",
          to: Annotated[str | None, typer.Option("--to", metavar="FORMAT", help="diffusers, kohya or peft. Default: "
                                                 "diffusers, and kohya for full.")] = None,
          base: Base = None, like: Like = None) -> None:
    """Merge several adapters into one file, by weight.

    The file is read back and compared before it gets its name.
    """
    from dbrun.cli.using import merge_files

    merge_files(adapters, how, to, base, like, output)


@app.command()
def convert(adapter: Annotated[str, typer.Argument(help="A file, or a folder that a run wrote.", metavar="ADAPTER",
                                                   show_default=False)],
            to: To, base: Base = None, like: Like = None,
            output: Annotated[Path | None, typer.Option("--output", "-o", metavar="PATH", help="What to write. "
                                                        "Default: a file beside the adapter.")] = None) -> None:
    """Write an adapter in another format, and say what is lost.

    The file is read back and compared before it gets its name.
    """
    from dbrun.cli.using import convert_file

    convert_file(adapter, to, base, like, output)


@app.command()
def push(folder: Annotated[Path, typer.Argument(help="A folder that a run delivered, such as outputs/sks_dog.",
                                                metavar="FOLDER", show_default=False)],
         repo: Annotated[str, typer.Argument(help="The repository; created if it does not exist.",
                                             metavar="OWNER/NAME", show_default=False)],
         public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
         dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
         ) -> None:
    """Upload what a run delivered to the Hugging Face Hub.

    The model card is uploaded, too. A new repository is private. After an interruption run the same command again:
    files already sent are not sent again.
    """
    from dbrun.cli.using import push_folder

    push_folder(folder, repo, public=public, dry_run=dry_run)
