"""Do several subjects with captions of their own go through, and captioned pictures without any subject?"""

import json

from projects import Project

TWO = """\
subjects:
  - images: pictures
    instance_prompt: a photo of sks dog
    trigger: sks dog
    captions: {type: metadata, template: "{trigger}, {caption}", dropout: 0.3, shuffle: {variants: 3, keep: 0}}
    class_prompt: a photo of a dog
  - {images: others, instance_prompt: a photo of zwx cat, class_prompt: a photo of a cat}
"""


def write(project: Project, name: str, text: str) -> None:
    """The tiny recipe under this name, with this in place of its subject, and without prompts for samples."""
    recipe = (project.folder / "tiny.yaml").read_text()
    head, _, rest = recipe.partition("subject:\n")
    rest = rest.partition("prior:")[2].replace(", prompts: [a photo of sks dog, a photo of a dog]", "")
    (project.folder / f"{name}.yaml").write_text(f"{head}{text}prior:{rest}".replace("name: tiny", f"name: {name}"))


def test_two_subjects_become_one_adapter(project: Project) -> None:
    rows = [{"file_name": f"{i}.png", "text": "grass, sun, ball"} for i in range(3)]
    (project.folder / "pictures" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write(project, "both", TWO)
    done = project.dbrun("run", "both.yaml", "--json")
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert {m["total"] for m in made if m["event"] == "progress" and m["stage"] == "generate-priors"} == {6}
    facts = json.loads(project.dbrun("show", "outputs/both/pytorch_lora_weights.safetensors", "--json").stdout)
    dog, cat = facts["recipe"]["subjects"]
    assert {p["prompt"] for p in dog["pictures"]} == {"sks dog, grass, sun, ball"} and len(cat["pictures"]) == 3
    assert all(len(p["variants"]) == 2 and p["dropout"] == 0.3 for p in dog["pictures"])
    shown = json.loads((project.folder / "outputs" / "both" / "samples" / "samples.json").read_text())["prompts"]
    assert shown == ["a photo of sks dog", "a photo of sks dog in the snow", "a photo of a dog",
                     "a photo of zwx cat", "a photo of zwx cat on the moon", "a photo of a cat"]
    assert "nothing to do" in project.dbrun("run", "both.yaml").stderr
    plan = json.loads(project.dbrun("plan", "both.yaml", "subjects=" + json.dumps(
        [{"images": "pictures", "instance_prompt": "x", "class_prompt": "a photo of a dog"}]), "--json").stdout)
    assert {s["name"] for s in plan["stages"] if s["status"] == "hit"} == {"load", "adapt", "generate-priors"}, (
        "the dog's class images are those that were made for it alone")


def test_captioned_pictures_without_a_subject_are_a_recipe(project: Project) -> None:
    for number, name in enumerate(("a_dog_on_grass", "a_dog", "a_ball_2")):
        (project.folder / "pictures" / f"{number}.png").rename(project.folder / "pictures" / f"{name}.png")
    write(project, "captions", "subject: {images: pictures, captions: {type: filename, dropout: 0.5}}\n")
    project.dbrun("run", "captions.yaml", "prior=null", "export=[diffusers]")
    shown = json.loads((project.folder / "outputs" / "captions" / "samples" / "samples.json").read_text())["prompts"]
    assert sorted(shown) == ["a ball", "a dog", "a dog on grass"]
    facts = project.dbrun("show", "outputs/captions/pytorch_lora_weights.safetensors").stdout
    assert "a dog on grass" in facts
