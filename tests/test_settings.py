"""Settings: declarations, checks, and everything that is derived from them.

About 5 s. ``python tests/test_settings.py`` writes the reference and the list of options.
"""

import copy
import dataclasses
import json
import pickle
import re
from pathlib import Path

import pytest
import typer
from conftest import layer_record, run_record

from bottleneck import Cache
from bottleneck import settings as declared_settings
from bottleneck.cli import app
from bottleneck.cli.command import COMMANDS, in_order
from bottleneck.errors import PathMissingError, UnknownNameError, UsageError
from bottleneck.fields import declared
from bottleneck.finetune.checkpoints import changed_settings
from bottleneck.settings import (
    ExtractSettings,
    FeatureSettings,
    FinetuneSettings,
    FitSettings,
    PredictSettings,
    StoreSettings,
    SweepSettings,
)
from bottleneck.settings.heads import RECIPES

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
        "`[fit-head]` or `[cache.verify]`, or in `[default]` for all commands that have the\n"
        "option and accept its value. A key is the option's name with `_` for `-`. Numbers are\n"
        "written as numbers and flags as `true` or `false`, without quotes; everything else is a\n"
        "string. An option that may repeat takes a list or a single value. The command line takes\n"
        "precedence over a command's table, that over `[default]`, and that over the defaults;\n"
        "`bottleneck config` prints the current settings. `cache prune` takes `model` and `layer`\n"
        "from its own table only.\n\n"
        "An option that would have no effect beside the others is refused, such as `--images`\n"
        "without `--deep`; one in the file waits for the runs that use it.\n"
    )
    parts = [head]
    for command in in_order():
        flags = {each.name: each.flag for each in command.values.values()}
        doc = "\n".join(line.strip() for line in (command.function.__doc__ or "").splitlines())
        parts.append(f"\n## bottleneck {command.name}\n\n{doc.strip()}\n")
        parts.append("\n| option | default | |\n| --- | --- | --- |\n")
        for value in command.values.values():
            text = value.doc
            text = text.replace("[", r"\[")  # which would begin a link
            for parameter, flag in flags.items():
                text = text.replace(f"`{parameter}`", f"`{flag}`")
            if len(value.choices) > 1:
                text = f"{text} One of {', '.join(value.choices)}."
            shown = value.key.upper() if value.option.argument else value.option.name or value.flag
            missing = value.default is dataclasses.MISSING
            default = "required" if missing else value.default_text
            if value.default is True:
                default = "on"
            cells = [f"`{shown}`", default, text]
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
        for recipe, own in RECIPES.items() if "recipe" in flags else ():
            listed = ", ".join(f"`{flags[name]} {value}`" for name, value in own.items())
            parts.append(f"\n`--recipe {recipe}` means {listed}.\n" if own else "")
    return "".join(parts)


def test_options_and_their_defaults_are_those_of_the_list():
    """A difference must be intended and listed in the CHANGELOG."""
    assert json.loads(json.dumps(options())) == json.loads(OPTIONS.read_text())


def test_the_reference_is_as_the_settings_are():
    assert reference() == REFERENCE.read_text(), "run python tests/test_settings.py"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_field_has_a_sentence_and_a_default_that_passes_its_own_check(kind):
    for field in declared(kind):
        assert field.doc.endswith("."), field.name
    needed = [each.name for each in declared(kind) if each.default is dataclasses.MISSING]
    made = kind(**{name: ["x"] if name == "models" else "x" for name in needed})
    assert dataclasses.replace(made) == made


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_what_is_not_given_and_is_kept_in_full(recipe):
    made, plain = (FinetuneSettings("all", recipe=name) for name in (recipe, "default"))
    assert made.as_dict() == plain.as_dict() | RECIPES[recipe] | {
        "recipe": recipe,
        "clip": made.as_dict()["clip"],
    }
    other = FinetuneSettings("all", recipe=recipe, epochs=3, optimizer="sgd", augment="none")
    assert (other.epochs, other.optimizer, other.augment) == (3, "sgd", "none")
    assert other.learning_rate == made.learning_rate
    assert dataclasses.replace(other) == other
    by_hand = FinetuneSettings("all", **RECIPES[recipe])
    assert not changed_settings(by_hand, made.as_dict())


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda: FitSettings("smv"), UnknownNameError, "did you mean 'svm'?"),
        (lambda: FitSettings(C=0), UsageError, "`C` must be auto or a number from 1e-10 to 1e+10"),
        (lambda: FitSettings(C=float("nan")), UsageError, "`C` must be auto or a number"),
        (lambda: FitSettings("svm", hidden=8), UsageError, "`hidden` is for mlp, not for svm"),
        (
            lambda: FitSettings("svm", 1, 2, 3, 4),
            UsageError,
            "FitSettings takes only clf, C, n_neighbors by position, and each value once; give",
        ),
        (lambda: FitSettings("svm", clf="svm"), UsageError, "by position, and each value once"),
        (
            lambda: FitSettings("svm", "x"),
            UsageError,
            "`C` must be auto or a number from 1e-10 to 1e+10",
        ),
        (
            lambda: FitSettings(seed=-1),
            UsageError,
            "`seed` must be a whole number from 0 to 4294967295",
        ),
        (lambda: FitSettings(n_neighbours=3), UsageError, "did you mean 'n_neighbors'?"),
        (ExtractSettings, UsageError, "`model` is missing: the base: one that 'bottleneck models'"),
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
def test_an_invalid_value_is_one_sentence_with_the_parameter(make, kind, sentence):
    with pytest.raises(kind) as refused:
        make()
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_several_invalid_values_are_reported_together():
    with pytest.raises(UsageError) as refused:
        FitSettings(C=-1, seed="x", device=3)
    assert all(f"`{name}`" in str(refused.value) for name in ("C", "seed", "device"))


def test_texts_become_values():
    made = ExtractSettings(model="vgg16", image_size="150x200", batch_size="16", views="0")
    assert (made.image_size, made.batch_size, made.views) == ((150, 200), 16, 0)
    assert SweepSettings(C=["auto"]).C == ()
    assert SweepSettings(C=["0.1", "1"]).C == (0.1, 1.0)


def test_settings_from_a_file(bottleneck):
    """A command's table takes precedence over the shared one, the command line over both."""
    Path("bottleneck.toml").write_text(
        '[default]\ncache = "shared"\nseed = 1\n[extract]\nseed = 2\nlayer = ["a", "b"]\n'
        'squash = false\n[cache.verify]\nimages = 3\n[fit-head]\nneighbors = 7\nset = "mine"\n'
    )
    rows = json.loads(bottleneck("config", "--json").out)
    found = {(row["command"], row["key"]): (row["value"], row["from"]) for row in rows}
    assert found["extract", "seed"] == (2, "[extract]")
    assert found["sweep", "seed"] == (1, "[default]")
    assert found["cache ls", "cache"] == ("shared", "[default]")
    assert found["cache verify", "images"] == (3, "[cache.verify]")
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


def test_a_flag_from_a_file_can_be_switched_off(bottleneck):
    Path("bottleneck.toml").write_text("[leaderboard]\njson = true\ncsv = true\n")
    assert "--json and --csv exclude each other" in bottleneck("leaderboard").err
    assert "exclude" not in bottleneck("leaderboard", "--no-json").err


def test_a_copy_of_settings_is_pickled_as_the_original_is():
    """As scikit-learn's checks compare them, whatever the seed of hashes."""
    given = FinetuneSettings(unfreeze="all").as_dict()
    made = FinetuneSettings(**{name: given[name] for name in given if given[name] is not None})
    assert pickle.dumps(copy.deepcopy(made)) == pickle.dumps(made)


WITHOUT_EFFECT = [
    ("leaderboard --spreadsheet-safe", "--csv"),
    ("similar x.png --spreadsheet-safe", "--csv or --output"),
    ("evaluate --spreadsheet-safe", "--errors"),
    ("predict x.png --spreadsheet-safe --json", "--json"),
    ("predict x.png --spreadsheet-safe --output x.jsonl", "--output *.jsonl"),
    ("predict x.png --cache other --tta 4 --augment flip", "--tta"),
    ("leaderboard --wide --csv", "--csv"),
    ("models --wide --markdown", "--markdown"),
    ("sweep --wide --json", "--json"),
    ("leaderboard --top 3 --compare 1 2", "--compare"),
    ("leaderboard --where clf=svm --compare 1 2", "--compare"),
    ("leaderboard --finetuned --compare 1 2", "--compare"),
    ("leaderboard --by model --compare 1 2", "--compare"),
    ("leaderboard --pareto x.png", "--by"),
    ("extract --model vgg16 --ray-address h:1", "--engine ray"),
    ("extract --model vgg16 --workers 2", "--engine ray"),
    ("report --set x --head y", "--head"),
    ("report --all --images 3", "--all"),
    ("report --all --format md", "--all"),
    ("cache verify --images 3", "--deep"),
    ("cache verify --seed 3", "--deep"),
    *((f"cache import x.h5 {each}", "FILE *.npy") for each in (
        "--table x.csv", "--model m", "--layer features", "--axes CHW", "--by-row", "--seed 3"
    )),
    ("serve h --onnx m.onnx", "HEAD"),
    ("suspects --spreadsheet-safe", "--csv or --output"),
    ("suspects --fix x.csv", "--output"),
    ("suggest x.png --spreadsheet-safe", "--csv or --output"),
    ("extract --model vgg16 --dry-run --near-duplicates", "--dry-run"),
    ("fit-head --log x.sqlite", "--experiment or --best"),
    ("fit-head --best --experiment 1", "--experiment"),
    *((f"fit-head --clf svm {each}", "--clf mlp") for each in (
        "--hidden 256", "--dropout 0.5", "--epochs 100", "--patience 10", "--learning-rate 0.001"
    )),
    *((f"finetune --unfreeze all {each}", "--data") for each in (
        "--set x", "--group-by x", "--max-bytes 1GB", "--min-images 1", "--nested"
    )),
    ("finetune --unfreeze all --dtype float16", "--from-cache"),
    ("finetune --unfreeze all --mix-alpha 0.2", "--mix mixup or --mix cutmix"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "other"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused(bottleneck, words, other):
    """In one sentence that names both options, before anything is read."""
    refused = bottleneck(*words.split())
    assert (refused.code, refused.out) == (2, "")
    (line,) = refused.err.splitlines()
    assert re.search(
        rf"--\S+ (has no effect without|and) {re.escape(other)}( exclude each|;)", line
    )


def test_options_without_effect_are_those_of_the_table():
    """And each depends on another one of its command, or of another command that has it, too."""
    tried = {
        (name, flag)
        for name in COMMANDS
        for words, _ in WITHOUT_EFFECT
        if f"{words} ".startswith(f"{name} ")
        for flag in words.split()
        if flag.startswith("--")
    }
    names = {name for command in COMMANDS.values() for name in command.values}
    for name, command in COMMANDS.items():
        for each in command.values.values():
            others = each.option.needs + each.option.unless
            assert {other.partition("=")[0] for other in others} <= names
            own = [other for other in others if other.partition("=")[0] in command.values]
            if own and each.name != "wide":
                assert (name, each.flag) in tried, (name, each.flag)
            assert len(own) == len(others) or not each.option.needs


def test_options_without_effect_may_be_set_in_the_file(bottleneck):
    """There they are for other runs of the command."""
    Path("bottleneck.toml").write_text(
        "[default]\nspreadsheet_safe = true\nwide = true\n[cache.verify]\nimages = 3\n"
    )
    for words in (["leaderboard", "--json"], ["cache", "verify"], ["models", "--markdown"]):
        assert "effect" not in bottleneck(*words).err
        assert "exclude" not in bottleneck(*words).err


def test_a_flag_and_its_opposite_exclude_each_other(bottleneck):
    refused = bottleneck("extract", "--model", "vgg16", "--squash", "--crop")
    assert (refused.code, "--squash and --crop exclude each other" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "[extract]\nmodle = 'vgg16'\n",
            "'modle' in [extract]; 'bottleneck config' lists those that exist; did you mean",
        ),
        (
            "[extrat]\n",
            "[extrat], which is not a command; expected [default] or a command's name; did you",
        ),
        ("[default]\nmodle = 'vgg16'\n", "unknown key 'modle' in [default]"),
        ("seed = 3\n", "the key 'seed' outside of a command's table; put it under [default]"),
        (
            "[sweep]\ncv = 1\n",
            "[sweep] in 'bottleneck.toml': cv must be a whole number of at least 2",
        ),
        ("[sweep\n", "'bottleneck.toml' is not valid TOML"),
        ("cache = 3\n", "the key 'cache' outside of a command's table"),
        (
            "[cache]\nverify = 3\n",
            "'bottleneck.toml': [cache.verify] must be a table of settings, got 3",
        ),
        (
            "[cache.lss]\n",
            "the table [cache.lss], which is not a command; expected [default] or a command's",
        ),
        ("[cache.lss]\n", "; did you mean 'cache.ls'?"),
        ("[defualt]\n", "; did you mean 'default'?"),
        (
            "[leaderboard]\ncompare = [1]\n",
            "compare must be 2 values, each a whole number, got [1]",
        ),
        ("[cache]\nls = 1\n", "'bottleneck.toml': [cache.ls] must be a table of settings, got 1"),
        ("[cache]\nseed = 1\n", "the key 'cache.seed' outside of a command's table"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence(bottleneck, content, sentence):
    Path("bottleneck.toml").write_text(content)
    refused = bottleneck("leaderboard")
    assert refused.code == 2
    assert sentence in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def settings_in_force(bottleneck, *arguments):
    rows = json.loads(bottleneck("config", *arguments, "--json").out)
    return {(row["command"], row["key"]): (row["value"], row["from"]) for row in rows}


def test_a_shared_key_counts_where_its_value_fits(bottleneck):
    """Several commands have an option of that name, and mean different things by it."""
    Path("bottleneck.toml").write_text(
        '[default]\nC = [0.1, 1]\nclf = "svm"\npool = ["avg", "spp"]\nprecision = "auto"\n'
    )
    found = settings_in_force(bottleneck)
    assert found["sweep", "C"] == ([0.1, 1], "[default]")
    assert found["fit-head", "C"] == (None, "default")
    assert found["fit-head", "clf"] == ("svm", "[default]")
    assert found["sweep", "clf"] == (["svm"], "[default]")
    assert found["sweep", "pool"] == (["avg", "spp"], "[default]")
    assert found["extract", "pool"] == ("none", "default")
    assert found["finetune", "precision"] == ("fp32", "default")
    assert found["extract", "precision"] == ("auto", "[default]")


def test_shared_keys_do_not_select_what_to_prune(bottleneck):
    Path("bottleneck.toml").write_text('[default]\nmodel = "vgg16"\nlayer = "block5_pool"\n')
    found = settings_in_force(bottleneck)
    assert found["extract", "model"] == (["vgg16"], "[default]")
    assert found["extract", "layer"] == (["block5_pool"], "[default]")
    assert found["cache prune", "model"] == found["cache prune", "layer"] == (None, "default")
    Path("bottleneck.toml").write_text('[cache.prune]\nmodel = "vgg16"\n')
    assert settings_in_force(bottleneck)["cache prune", "model"] == ("vgg16", "[cache.prune]")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('seed = "1"', "seed must be a whole number from 0 to 4294967295, got '1'"),
        ("seed = true", "seed must be a whole number from 0 to 4294967295, got True"),
        ("near_duplicates = 1", "near_duplicates must be true or false, got 1"),
        ('near_duplicates = "true"', "near_duplicates must be true or false, got 'true'"),
        ("data = 3", "data must be a path, got 3"),
        ("layer = [3]", "layer must be a string, got 3"),
        ("image_size = true", "image_size must be pixels as SIDE or HEIGHTxWIDTH"),
        ("image_size = 1.5", "image_size must be pixels as SIDE or HEIGHTxWIDTH"),
        ('batch_size = "4"', "batch_size must be auto or a whole number from 1 to 99999, got '4'"),
        ("pool = 2024-01-01", "pool must be none, avg, max, gem, spp, cls, cls+avg or map"),
    ],
)
def test_values_of_the_file_have_the_types_of_toml(bottleneck, line, expected):
    for table in ("extract", "default"):
        Path("bottleneck.toml").write_text(f"[{table}]\n{line}\n")
        refused = bottleneck("config")
        assert (refused.code, refused.out) == (2, "")
        if table == "extract":
            assert f"error: [extract] in 'bottleneck.toml': {expected}" in refused.err
        assert len(refused.err.splitlines()) == 1


def test_an_error_names_the_file_and_the_table_that_set_its_values(bottleneck):
    Path("bottleneck.toml").write_text('[default]\nviews = 0\n[fit-head]\naugment = "flip"\n')
    own = "('bottleneck.toml' sets augment in [fit-head], views in [default])"
    refused = bottleneck("fit-head")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"error: --augment 'flip' needs --views of at least 1, got 0 {own}\n"
    typed = bottleneck("fit-head", "--views", "0").err
    assert "at least 1, got 0 ('bottleneck.toml' sets augment in [fit-head])" in typed
    typed = bottleneck("fit-head", "--views", "0", "--augment", "flip").err
    assert typed == "error: --augment 'flip' needs --views of at least 1, got 0\n"


def test_config_prints_valid_toml(bottleneck):
    Path("bottleneck.toml").write_text(
        '[default]\ncache = "shared"\n[cache.ls]\njson = true\n[finetune]\nclip = inf\n'
        '[sweep]\nC = [1e-3, 1]\n[extract]\nset = "a\\"b"\n'
    )
    refused = bottleneck("config")
    assert "[extract] in 'bottleneck.toml': 'a\"b' is not a valid name" in refused.err
    file = Path("bottleneck.toml")
    file.write_text(file.read_text().replace('a\\"b', "ab"))
    printed = bottleneck("config")
    assert printed.err == "settings from bottleneck.toml\n"
    before = settings_in_force(bottleneck)
    assert re.findall(r"^\[(.*)\]", printed.out, re.MULTILINE) == [
        each.name.replace(" ", ".") for each in in_order()
    ]
    assert re.search(r"^clip = inf +# \[finetune\]$", printed.out, re.MULTILINE)
    assert re.search(r"^json = true +# \[cache.ls\]$", printed.out, re.MULTILINE)
    assert re.search(r"^# model = +# required$", printed.out, re.MULTILINE)
    file.write_text(printed.out)
    after = settings_in_force(bottleneck)
    assert {place: value for place, (value, _) in after.items()} == {
        place: value for place, (value, _) in before.items()
    }


def test_config_of_one_command_or_a_group(bottleneck):
    assert bottleneck("config").err == "no bottleneck.toml: all settings have their defaults\n"
    for words in (["cache", "ls"], ["cache.ls"], ["cache ls"]):
        assert {command for command, _ in settings_in_force(bottleneck, *words)} == {"cache ls"}
    group = {command for command, _ in settings_in_force(bottleneck, "cache")}
    assert group == {name for name in COMMANDS if name.startswith("cache ")}
    refused = bottleneck("config", "cache", "lss")
    assert (refused.code, "did you mean 'cache ls'?" in refused.err) == (2, True)


def test_another_file_is_read_where_it_is_named(bottleneck):
    Path("mine.toml").write_text("[leaderboard]\nlog = 'mine.sqlite'\n")
    assert (
        "no experiment log 'mine.sqlite'" in bottleneck("leaderboard", "--config", "mine.toml").err
    )
    refused = bottleneck("leaderboard", "--config", "other.toml")
    assert (refused.code, "no file 'other.toml'" in refused.err) == (2, True)


def test_help_reads_well_at_80_columns(bottleneck, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    flags = re.MULTILINE
    for name in COMMANDS:
        shown = bottleneck(*name.split(), "-h").out
        assert all(len(line) <= 80 for line in shown.splitlines()), name
        assert "…" not in shown, name
        assert not re.search(r"<\w", shown), name
        longest = max(len(words) for words in re.findall(r"^│ +(-\S+(?: +-\S+)*)", shown, flags))
        assert longest <= 30, name
    assert "cache import [OPTIONS] FILE " in bottleneck("cache", "import", "-h").out
    assert "cache verify [OPTIONS] [BANK] " in bottleneck("cache", "verify", "-h").out
    assert re.search(r"--precision +TEXT", bottleneck("finetune", "-h").out)
    assert "predict [OPTIONS] IMAGES... " in bottleneck("predict", "-h").out
    assert "at float16. \n The cost of a layer" in bottleneck("layers", "-h").out
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

    def argument(group: str, command: str, typed: str) -> set[str]:
        found = typer.main.get_command(app).commands[group]
        found = found.commands[command] if command else found
        context = found.make_context(command, [], resilient_parsing=True)
        (parameter,) = [each for each in found.params if each.param_type_name == "argument"]
        return {each.value for each in parameter.shell_complete(context, typed)}

    assert completed("fit-head", "--clf", "s") == {"softmax", "svm"}
    assert completed("extract", "--pool", "") == {
        "none",
        "avg",
        "max",
        "gem",
        "spp",
        "cls",
        "cls+avg",
        "map",
    }
    assert completed("extract", "--augment", "st") == {"standard"}
    assert completed("extract", "--model", "vgg16_") == {"vgg16_bn"}
    assert "block5_pool" in completed("extract", "--model", "vgg16", "--layer", "block5")
    both = ("--model", "vgg16", "--model", "resnet18", "--layer")
    assert {"block5_pool", "layer4.1.relu"} <= completed("extract", *both, "")
    for name in ("one", "other"):
        Path("heads", name).mkdir(parents=True)
        Path("heads", name, "head.json").touch()
    assert completed("evaluate", "--head", "o") == {"one", "other"}
    assert not completed("evaluate", "--heads", "o")
    Cache("cache").record_run(run_record(model="mine", layers=[layer_record("mine-abababababab")]))
    Path("cache/mine-abababababab").mkdir()
    Path("cache/mine-abababababab/bank.json").touch()
    assert completed("fit-head", "--model", "") == {"mine"}
    assert completed("sweep", "--layer", "") == {"a"}
    assert argument("cache", "info", "m") == {"mine-abababababab"}
    assert argument("config", "", "cache v") == {"cache verify"}


if __name__ == "__main__":
    OPTIONS.write_text(json.dumps(options(), indent=2) + "\n")
    REFERENCE.write_text(reference())
