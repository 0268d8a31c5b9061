"""Settings: declared once, checked in one sentence, and everything that is derived from them.

About 5 s. ``python tests/test_settings.py`` writes the reference and the list of options.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import typer

from bottleneck import settings as declared_settings
from bottleneck.cli import app
from bottleneck.cli.command import COMMANDS
from bottleneck.errors import PathMissingError, UnknownNameError, UsageError
from bottleneck.fields import declared
from bottleneck.settings import (
    ExtractSettings,
    FeatureSettings,
    FinetuneSettings,
    FitSettings,
    PredictSettings,
    StoreSettings,
    SweepSettings,
)

ROOT = Path(__file__).parents[1]
OPTIONS = ROOT / "tests" / "options.json"
REFERENCE = ROOT / "docs" / "reference.md"
ALL = [
    each
    for name in declared_settings.__all__
    if dataclasses.is_dataclass(each := getattr(declared_settings, name))
]


def options() -> dict[str, dict[str, object]]:
    """Return the names and defaults of all options, by command."""
    return {
        name: {
            value.key.upper() if value.option.argument else value.option.name or value.flag: plain(
                value.default
            )
            for value in command.values.values()
        }
        for name, command in sorted(COMMANDS.items())
    }


def plain(value: object) -> object:
    """Return a default as JSON holds it."""
    if value in (dataclasses.MISSING, ()):
        return None
    return str(value) if isinstance(value, Path) else value


def reference() -> str:
    """Return the page of all commands with their options."""
    head = (
        "# Commands and settings\n\n"
        "Every option is a key of `bottleneck.toml`, too: in the table of its command, such as\n"
        "`[fit-head]` or `[cache.verify]`, or in `[default]` for all commands that have it. A key\n"
        "is the option's name with `_` for `-`. What is typed wins over the file, and the file\n"
        "over the default; `bottleneck config` prints what is in force.\n"
    )
    parts = [head]
    for name, command in COMMANDS.items():
        flags = {each.name: each.flag for each in command.values.values()}
        doc = "\n".join(line.strip() for line in (command.function.__doc__ or "").splitlines())
        parts.append(f"\n## bottleneck {name}\n\n{doc.strip()}\n")
        parts.append("\n| option | default | |\n| --- | --- | --- |\n")
        for value in command.values.values():
            text = value.doc
            for parameter, flag in flags.items():
                text = text.replace(f"`{parameter}`", f"`{flag}`")
            if value.choices and value.choices != ("auto",):
                text = f"{text} One of {', '.join(value.choices)}."
            shown = value.key.upper() if value.option.argument else value.option.name or value.flag
            missing = value.default is dataclasses.MISSING
            default = "required" if missing else value.default_text
            if value.default is True:
                default = "on"
            cells = [f"`{shown}`", default, text]
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(parts)


def test_options_and_their_defaults_are_those_of_the_list():
    """A difference is intended, or it is a mistake: see the CHANGELOG."""
    assert json.loads(json.dumps(options())) == json.loads(OPTIONS.read_text())


def test_the_reference_is_as_the_settings_are():
    assert reference() == REFERENCE.read_text(), "run python tests/test_settings.py"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_field_has_a_sentence_and_a_default_that_passes_its_own_check(kind):
    for field in declared(kind):
        assert field.doc.endswith("."), field.name
    given = {each.name: "x" for each in declared(kind) if each.default is dataclasses.MISSING}
    made = kind(**given)
    assert dataclasses.replace(made) == made


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda: FitSettings("smv"), UnknownNameError, "did you mean 'svm'?"),
        (lambda: FitSettings(C=0), UsageError, "`C` must be a number from 1e-10 to 10000000000.0"),
        (lambda: FitSettings(C=float("nan")), UsageError, "`C` must be a number"),
        (lambda: FitSettings("svm", hidden=8), UsageError, "`hidden` is for mlp, not for svm"),
        (
            lambda: FitSettings(seed=-1),
            UsageError,
            "`seed` must be a whole number from 0 to 4294967295",
        ),
        (lambda: FitSettings(n_neighbours=3), UsageError, "did you mean 'n_neighbors'?"),
        (ExtractSettings, UsageError, "`model` is missing; give a text"),
        (
            lambda: ExtractSettings("vgg16", image_size="12y"),
            UsageError,
            "must be pixels as SIDE or HEIGHTxWIDTH, such as 150 or 150x200, got '12y'",
        ),
        (lambda: ExtractSettings("vgg16", image_size=0), UsageError, "`image_size` must be pixels"),
        (
            lambda: StoreSettings(batch_size="many"),
            UsageError,
            "must be auto or a whole number from 1 to 99999, got 'many'",
        ),
        (lambda: StoreSettings(views=8), UsageError, "give `augment=standard`"),
        (lambda: StoreSettings(augment="flip"), UsageError, "`augment` 'flip' needs `views`"),
        (lambda: StoreSettings(augment="flop", views=1), UnknownNameError, "did you mean 'flip'?"),
        (lambda: StoreSettings(augment="my.yaml", views=1), PathMissingError, "no file 'my.yaml'"),
        (lambda: PredictSettings(tta=4), UsageError, "`tta` is 4"),
        (lambda: PredictSettings(device="gpu"), UsageError, "no device 'gpu'; expected auto, cpu"),
        (lambda: FeatureSettings(augment="flip", views=0), UsageError, "needs `views` of at least"),
        (lambda: SweepSettings(cv=1), UsageError, "`cv` must be a whole number of at least 2"),
        (lambda: FinetuneSettings("all", clip=0), UsageError, "`clip` must be a number above 0"),
        (
            lambda: FinetuneSettings("all", val_share=0.6),
            UsageError,
            "above 0 and of at most 0.5, got 0.6",
        ),
    ],
)
def test_what_cannot_be_right_is_one_sentence_that_names_the_parameter(make, kind, sentence):
    with pytest.raises(kind) as refused:
        make()
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_that_is_wrong_is_told_together():
    with pytest.raises(UsageError) as refused:
        FitSettings(C=-1, seed="x", device=3)
    assert all(f"`{name}`" in str(refused.value) for name in ("C", "seed", "device"))


def test_texts_become_values():
    made = ExtractSettings(model="vgg16", image_size="150x200", batch_size="16", views="0")
    assert (made.image_size, made.batch_size, made.views) == ((150, 200), 16, 0)
    assert SweepSettings(C=["auto"]).C == ()
    assert SweepSettings(C=["0.1", "1"]).C == (0.1, 1.0)


def test_settings_from_a_file(bottleneck):
    """Its own table wins over the shared one, and what is typed over both."""
    Path("bottleneck.toml").write_text(
        '[default]\ncache = "shared"\nseed = 1\n[extract]\nseed = 2\nlayer = ["a", "b"]\n'
        'squash = false\n[cache.verify]\nimages = 3\n[fit-head]\nneighbors = 7\nset = "mine"\n'
    )
    rows = json.loads(bottleneck("config", "--json").out)
    found = {(row["command"], row["key"]): (row["value"], row["from"]) for row in rows}
    assert found["extract", "seed"] == (2, "[extract]")
    assert found["sweep", "seed"] == (1, "[default]")
    assert found["cache ls", "cache"] == ("shared", "[default]")
    assert found["cache verify", "images"] == (3, "[cache verify]")
    assert found["extract", "layer"] == (["a", "b"], "[extract]")
    assert found["extract", "squash"] == (False, "[extract]")
    assert found["fit-head", "neighbors"] == (7, "[fit-head]")
    assert found["fit-head", "clf"] == ("softmax", "default")
    assert "no cache folder 'shared'" in bottleneck("cache", "verify").err
    assert "no cache folder 'typed'" in bottleneck("cache", "verify", "--cache", "typed").err


def test_one_value_in_a_file_serves_where_several_may_stand(bottleneck):
    Path("bottleneck.toml").write_text('[extract]\nlayer = "block5_pool"\n')
    rows = json.loads(bottleneck("config", "extract", "--json").out)
    assert next(row["value"] for row in rows if row["key"] == "layer") == ["block5_pool"]


def test_a_flag_from_a_file_can_be_typed_off(bottleneck):
    Path("bottleneck.toml").write_text("[leaderboard]\njson = true\ncsv = true\n")
    assert "--json and --csv exclude each other" in bottleneck("leaderboard").err
    assert "exclude" not in bottleneck("leaderboard", "--no-json").err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[extract]\nmodle = 'vgg16'\n", "unknown key 'modle' in [extract]; did you mean 'model'?"),
        ("[extrat]\n", "[extrat] that is no command; did you mean 'extract'?"),
        ("[default]\nmodle = 'vgg16'\n", "unknown key 'modle' in [default]"),
        ("seed = 3\n", "the key 'seed' outside of a command's table; put it under [default]"),
        (
            "[sweep]\ncv = 1\n",
            "[sweep] in 'bottleneck.toml': cv must be a whole number of at least 2",
        ),
        ("[sweep\n", "'bottleneck.toml' is not TOML"),
        ("cache = 3\n", "the key 'cache' outside of a command's table"),
        ("[cache]\nverify = 3\n", "the key 'cache.verify' outside of a command's table"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence(bottleneck, content, sentence):
    Path("bottleneck.toml").write_text(content)
    refused = bottleneck("leaderboard")
    assert refused.code == 2
    assert sentence in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_another_file_is_read_where_it_is_named(bottleneck):
    Path("mine.toml").write_text("[leaderboard]\nlog = 'mine.sqlite'\n")
    assert (
        "no experiment log 'mine.sqlite'" in bottleneck("leaderboard", "--config", "mine.toml").err
    )
    refused = bottleneck("leaderboard", "--config", "other.toml")
    assert (refused.code, "no file 'other.toml'" in refused.err) == (2, True)


def test_help_reads_well_at_80_columns(bottleneck, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        shown = bottleneck(*name.split(), "-h").out
        assert all(len(line) <= 80 for line in shown.splitlines()), name
        assert "…" not in shown, name
    listed = bottleneck("-h").out
    titles = [line.split()[1] for line in listed.splitlines() if line.startswith("╭")]
    assert titles == ["Options", "Features", "Heads", "Judge", "Fine-tune", "Ship", "Other"]


def test_shells_complete_choices_models_layers_and_heads():
    def completed(*words: str) -> set[str]:
        command, _, last = words[0], words[1:-1], words[-1]
        root = typer.main.get_command(app)
        context = root.commands[command].make_context(
            command, list(words[1:-2]), resilient_parsing=True
        )
        (parameter,) = [each for each in root.commands[command].params if words[-2] in each.opts]
        return {each.value for each in parameter.shell_complete(context, last)}

    assert completed("fit-head", "--clf", "s") == {"softmax", "svm"}
    assert completed("extract", "--pool", "") == {"none", "avg", "max", "gem", "spp", "cls"}
    assert completed("extract", "--augment", "st") == {"standard"}
    assert completed("extract", "--model", "vgg16_") == {"vgg16_bn"}
    assert "block5_pool" in completed("extract", "--model", "vgg16", "--layer", "block5")
    for name in ("one", "other"):
        Path("heads", name).mkdir(parents=True)
        Path("heads", name, "head.json").touch()
    assert completed("evaluate", "--head", "o") == {"one", "other"}


if __name__ == "__main__":
    OPTIONS.write_text(json.dumps(options(), indent=2) + "\n")
    REFERENCE.write_text(reference())
