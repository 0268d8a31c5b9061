"""Bases from elsewhere: small networks in every library's own layout, in folders and on a hub.

About 8 s in the first tier; what imports OpenCLIP or Transformers is in the second.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from timm.models import save_for_hf
from torch import nn

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    export_head,
    extract_features,
    finetune_head,
    fit_head,
    load_features,
    predict_images,
    unpack_head,
)
from bottleneck.bases import find_model
from bottleneck.bases.sources import SOURCES
from bottleneck.bases.weights import load_weights
from bottleneck.errors import (
    BottleneckError,
    MissingExtraError,
    PathMissingError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from bottleneck.settings import FinetuneSettings

SIDE = 32
TIMM = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
VISION = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
CLIP = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
OWN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64, "image_size": SIDE, "patch_size": 8}
SQUARE = {"height": SIDE, "width": SIDE}
CI = pytest.mark.ci
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_hub(tmp_path, monkeypatch):
    """The Hub's cache in a folder of the test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    close_session()
    yield
    close_session()


def write_timm(folder: str) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, **TIMM)
    config = {"pretrained_cfg": {**OWN, "crop_pct": 0.8}, "model_args": TIMM}
    save_for_hf(network, folder, model_config=config, safe_serialization=True)
    return network.eval()


def write_open_clip(folder: str) -> nn.Module:
    torch.manual_seed(0)
    network = import_module("open_clip").CLIP(**CLIP)
    Path(folder).mkdir(parents=True)
    config = {"model_cfg": CLIP, "preprocess_cfg": {**OWN, "resize_mode": "squash"}}
    Path(folder, "open_clip_config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), Path(folder, "open_clip_model.safetensors"))
    return network.eval()


def write_transformers(folder: str, kind: str) -> nn.Module:
    torch.manual_seed(0)
    own = {"image_mean": OWN["mean"], "image_std": OWN["std"]}
    cropping = {"size": {"shortest_edge": 36}, "crop_size": SQUARE}
    texts = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    texts |= {"intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": 8}
    texts |= {"bos_token_id": 1, "eos_token_id": 2}
    lib: Any = import_module("transformers")
    network, processor = {
        "vit": lambda: (
            lib.ViTModel(lib.ViTConfig(**SMALL)),
            lib.ViTImageProcessor(size=SQUARE, **own),
        ),
        "classifier": lambda: (
            lib.ViTForImageClassification(lib.ViTConfig(**SMALL, num_labels=5)),
            lib.ViTImageProcessor(size=SQUARE, **own),
        ),
        "dinov2": lambda: (
            lib.Dinov2Model(lib.Dinov2Config(**SMALL)),
            lib.BitImageProcessor(**cropping, **own),
        ),
        "clip": lambda: (
            lib.CLIPModel(
                lib.CLIPConfig(vision_config=SMALL, text_config=texts, projection_dim=24)
            ),
            lib.CLIPImageProcessor(**cropping, **own),
        ),
        "siglip": lambda: (
            lib.SiglipModel(lib.SiglipConfig(vision_config=SMALL, text_config=texts)),
            lib.SiglipImageProcessor(size=SQUARE, **own),
        ),
        "convnext": lambda: (
            lib.ConvNextModel(lib.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)),
            lib.ConvNextImageProcessor(size={"shortest_edge": SIDE}, **own),
        ),
    }[kind]()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network.eval()


def picture(width: int = 90, height: int = 60) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height))


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def computed(name: str, layer: str = "penultimate") -> torch.Tensor:
    base = FrozenBase(name, [layer], device="cpu", precision="fp32")
    (found,) = base(pixels()).values()
    return found


@torch.no_grad()
def test_a_folder_of_timm_is_what_timm_makes_of_it():
    theirs = write_timm("own")
    base = FrozenBase("local-dir:own", ["penultimate", "logits"], device="cpu", precision="fp32")
    penultimate, logits = base(pixels()).values()
    expected = theirs.forward_head(theirs.forward_features(pixels()), pre_logits=True)
    torch.testing.assert_close(penultimate, expected)
    torch.testing.assert_close(logits, theirs(pixels()))
    settings = timm.data.resolve_data_config(
        pretrained_cfg=timm.create_model("local-dir:own").pretrained_cfg
    )
    assert settings["crop_pct"] == 0.8
    transformed = timm.data.create_transform(**settings)(picture())
    torch.testing.assert_close(base.transform(picture()), transformed, atol=1e-6, rtol=0)


@pytest.mark.ci
@torch.no_grad()
def test_a_folder_of_open_clip_gives_its_embedding():
    theirs = write_open_clip("own")
    name = "open_clip:local-dir:own"
    torch.testing.assert_close(computed(name), theirs.encode_image(pixels()))
    network = FrozenBase(name, ["transformer.resblocks.0"], device="cpu").network
    assert network.layers["ln_pre.layer_norm"].axes == "1+TC"
    library: Any = import_module("open_clip.transform")
    settings = library.PreprocessCfg(size=SIDE, **OWN, resize_mode="squash")
    expected = library.image_transform_v2(settings, is_train=False)
    given = find_model(name).transform(picture())
    torch.testing.assert_close(given, expected(picture()), atol=1e-6, rtol=0)


def features(network: nn.Module, kind: str) -> torch.Tensor:
    """What users of Transformers take as the features of an image."""
    if kind in {"clip", "siglip"}:
        found = network.get_image_features(pixel_values=pixels())
        return getattr(found, "pooler_output", found)
    found = network(pixel_values=pixels())
    if kind == "classifier":
        return found.logits
    return found.last_hidden_state[:, 0] if kind == "vit" else found.pooler_output


@pytest.mark.ci
@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "classifier", "dinov2", "clip", "siglip", "convnext"])
def test_a_folder_of_transformers_gives_its_features(kind):
    theirs = write_transformers("own", kind)
    base = FrozenBase("hf:own", ["logits", "block.-1"], device="cpu", precision="fp32")
    block, logits = base(pixels()).values()
    torch.testing.assert_close(logits, features(theirs, kind))
    assert base.axes[base.layers[0]] in {"TC", "1+TC", "CHW"}
    assert block.shape[1:] == base.shapes[base.layers[0]]
    ours = {name for name, _ in base.network.root.named_modules()}
    assert ours <= {name for name, _ in theirs.named_modules()}
    assert not [name for name in ours if name.startswith("text_")]
    if kind != "convnext":  # takes images of any size as it is
        larger = FrozenBase("hf:own", ["logits"], image_size=(48, 48), device="cpu")
        assert larger.shapes[larger.layers[0]] == logits.shape[1:]
    processor = import_module("transformers").AutoImageProcessor.from_pretrained("own")
    expected = processor(images=picture(), return_tensors="pt")["pixel_values"][0]
    assert (base.transform(picture()) - expected).abs().mean() < 0.02


TUNED = {
    "local-dir:own": (write_timm, "blocks.2"),
    "hf-hub:someone/tiny": (write_timm, "blocks.2"),
    "open_clip:local-dir:own": (write_open_clip, "transformer.resblocks.1"),
    "hf:own": (lambda folder: write_transformers(folder, "vit"), "encoder.layer.1"),
    "timm:test_vit": (write_timm, "blocks.5"),  # which cannot be traced
}
"""How to write each model, and a module from which on to train it."""
EXPORTED = ("plain", "tuned")


@pytest.mark.ci
@pytest.mark.parametrize("name", TUNED)
def test_networks_of_each_source_are_fine_tuned(name, make_images):
    """On images, and from the cache where they are traced; and used afterwards, also elsewhere."""
    write, module = TUNED[name]
    write("own")
    cached("someone/tiny", "own")
    images, cache = ImageSet.from_folder(make_images("data", cat=20, dog=20)), Cache("cache")
    weights = "random" if name.startswith("timm:") else "default"
    options = {"weights": weights, "device": "cpu", "precision": "fp32"}
    base = FrozenBase(name, ["penultimate"], **options)
    if module not in base.network.modules:  # as Transformers names them in other versions
        module = base.network.blocks[-1].removesuffix(".forward")
    extract_features(images, base, cache)
    head = fit_head(load_features(cache), C=1.0)
    how = {"epochs": 2, "val_share": 0.3, "batch_size": 8, "learning_rate": 1e-3}
    done = finetune_head(head, None, cache, "heads/tuned", FinetuneSettings(module, **how))
    losses = [epoch["loss"] for epoch in done.head.scores["history"]]
    assert losses[1] < losses[0]
    stored = FinetuneSettings(module, from_cache=True, **how)
    if base.network.untraced:
        with pytest.raises(UsageError, match="cannot be traced and cut into parts"):
            finetune_head(head, None, cache, "heads/cached", stored)
    else:
        again = finetune_head(head, None, cache, "heads/cached", stored)
        told = [epoch["loss"] for epoch in again.head.scores["history"]]
        assert told == pytest.approx(losses, abs=1e-3)
    first, *_, last = base.network.layers
    tuned = FrozenBase("heads/tuned", [first, last], device="cpu", precision="fp32")
    old = FrozenBase(name, [first, last], **options)
    batch = torch.rand(2, 3, *base.transform.crop)
    assert torch.equal(tuned(batch)[first], old(batch)[first])
    changed = not torch.allclose(tuned(batch)[last], old(batch)[last])
    assert changed == (done.head.scores["best_epoch"] > 0)
    paths = [item.path for item in images.items[:3]]
    head.save("heads/plain")
    found = {each: list(predict_images(Head.load(f"heads/{each}"), paths)) for each in EXPORTED}
    assert {each.label for each in found["tuned"]} <= {"cat", "dog"}
    for each in EXPORTED:
        export_head(each, f"{each}.zip")
    for path in ("own", "hub", "heads", "cache"):
        if Path(path).exists():
            Path(path).rename(f"moved {path}")
    for each in EXPORTED:
        place = unpack_head(f"{each}.zip", f"new/{each}")
        assert list(predict_images(Head.load(place), paths)) == found[each]


LAYOUTS = {
    "local-dir": (write_timm, "config.json", "model.safetensors", "blocks.0.mlp.fc1.weight"),
    "open_clip:local-dir": (
        write_open_clip,
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "visual.conv1.weight",
    ),
}


@pytest.mark.parametrize("prefix", ["local-dir", pytest.param("open_clip:local-dir", marks=CI)])
def test_fingerprints_follow_the_content_of_weights_and_the_preprocessing(prefix):
    """Not the folder's name."""
    write, config, weights, tensor = LAYOUTS[prefix]
    folders = ["first", "same", "trained", "darker"]
    write("first")
    for each in folders[1:]:
        shutil.copytree("first", each)
    state = load_file(f"trained/{weights}")
    save_file({**state, tensor: state[tensor] + 1}, f"trained/{weights}")
    text = Path("darker", config).read_text()
    Path("darker", config).write_text(text.replace("0.4", "0.41"))
    bases = [FrozenBase(f"{prefix}:{each}", device="cpu") for each in folders]
    first, same, *others = (base.fingerprint(base.layers[0]) for base in bases)
    assert first == same
    assert len({first, *others}) == 3


@pytest.mark.ci
@torch.no_grad()
def test_files_in_the_layout_of_their_authors_are_converted():
    """DINOv2's registers have another name in Torch Hub's files."""
    torch.manual_seed(0)
    own = {**TIMM, "init_values": 1.0}
    theirs = timm.create_model("vit_small_patch14_reg4_dinov2", **own)
    config = {"model_args": own}
    save_for_hf(theirs, "own", model_config=config, safe_serialization=True)
    state = theirs.state_dict()
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, own["embed_dim"])
    classed = torch.zeros(1, 1, own["embed_dim"])
    state["pos_embed"] = torch.cat([classed, state["pos_embed"]], dim=1)
    torch.save({"model": state}, "dinov2.pth")
    base = FrozenBase("local-dir:own", weights="dinov2.pth", device="cpu", precision="fp32")
    (found,) = base(pixels()).values()
    expected = theirs.eval().forward_head(theirs.forward_features(pixels()), pre_logits=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.ci
def test_a_training_checkpoint_of_open_clip_is_a_file_of_weights():
    theirs = write_open_clip("own")
    state = {f"module.{name}": each for name, each in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, "epoch_3.pt")
    Path("own/open_clip_model.safetensors").unlink()
    base = FrozenBase("open_clip:local-dir:own", weights="epoch_3.pt", device="cpu")
    assert base.shapes == {"matmul": (16,)}


class Attack:
    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (Path("attacked"),)


@pytest.mark.parametrize(
    ("prefix", "write", "file"),
    [
        ("local-dir:", write_timm, "pytorch_model.bin"),
        pytest.param(
            *("open_clip:local-dir:", write_open_clip, "open_clip_pytorch_model.bin"), marks=CI
        ),
        pytest.param(
            *("hf:", lambda folder: write_transformers(folder, "vit"), "pytorch_model.bin"),
            marks=CI,
        ),
    ],
)
def test_pickled_code_does_not_run(prefix, write, file):
    write("own")
    (weights,) = Path("own").glob("*.safetensors")
    weights.unlink()
    torch.save({"x": Attack()}, f"own/{file}")
    model = find_model(f"{prefix}own")
    with pytest.raises(WeightsError, match="damaged|cannot be read as plain tensors"):
        load_weights(model, "default")[1].load()
    assert not Path("attacked").exists()


def cached(repository: str, folder: str) -> Path:
    """Lay a folder into the Hub's cache, as its client does."""
    place = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(COMMIT)
    return place


def test_a_repository_in_the_local_cache_needs_no_network():
    write_timm("own")
    cached("someone/tiny", "own")
    expected = computed("local-dir:own")
    assert torch.equal(computed("hf-hub:someone/tiny"), expected)
    assert torch.equal(computed(f"hf-hub:someone/tiny@{COMMIT}"), expected)


@pytest.mark.ci
def test_repositories_of_other_libraries_in_the_local_cache_need_no_network():
    write_open_clip("clip")
    cached("someone/clip", "clip")
    assert computed("open_clip:hf-hub:someone/clip").shape == (2, 16)
    write_transformers("vit", "vit")
    cached("someone/vit", "vit")
    assert find_model("hf:someone/vit").weights["pretrained"].load()


@pytest.mark.ci
def test_timms_own_weights_are_read_from_the_local_cache():
    name = "test_vit.r160_in1k"
    torch.manual_seed(0)
    theirs = timm.create_model(name.partition(".")[0])
    Path("own").mkdir()
    save_file(theirs.state_dict(), "own/model.safetensors")
    cached(f"timm/{name}", "own")
    base = FrozenBase(f"timm:{name}", ["logits"], device="cpu", precision="fp32")
    images = torch.rand(1, 3, *base.transform.crop)
    with torch.no_grad():
        torch.testing.assert_close(base(images)["head"], theirs.eval()(images))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("timm:resnet18.a1_in1k", "models--timm--resnet18.a1_in1k"),
        ("hf-hub:someone/tiny", "models--someone--tiny"),
        pytest.param(
            "open_clip:ViT-B-32/laion2b_e16",
            "models--timm--vit_base_patch32_clip_224.laion2b_e16",
            marks=CI,
        ),
        pytest.param("hf:someone/tiny", "models--someone--tiny", marks=CI),
    ],
)
def test_without_a_network_the_folder_is_named_at_once(name, folder):
    """The Hub's own client retries for half a minute."""
    began = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        FrozenBase(name, device="cpu")
    assert time.monotonic() - began < 10
    assert str(Path(constants.HF_HUB_CACHE, folder)) in str(caught.value)
    assert "cannot be downloaded" in str(caught.value)


def test_a_cached_configuration_without_its_weights_is_told(monkeypatch):
    write_timm("own")
    place = cached("someone/tiny", "own")
    (place / "snapshots" / COMMIT / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"models--someone--tiny and .* \(HF_HUB_OFFLINE is set"):
        FrozenBase("hf-hub:someone/tiny", device="cpu")
    assert FrozenBase("hf-hub:someone/tiny", weights="random", device="cpu").shapes


class Hub(BaseHTTPRequestHandler):
    """The requests that the Hub's client makes for a file."""

    files: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(content=False)

    def do_GET(self) -> None:
        self._answer(content=True)

    def _answer(self, *, content: bool) -> None:
        repository, _, place = self.path[1:].partition("/resolve/")
        self.asked.append(place)
        file = self.files / place.partition("/")[2]
        body = file.read_bytes() if file.is_file() else b""
        known = repository == "someone/tiny"
        self.send_response(200 if known and file.is_file() else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{file.name}"')
        code = "EntryNotFound" if known else "RepoNotFound"
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if content:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    """A hub on this machine with one repository, in the folder ``own``."""
    handler = type("Hub", (Hub,), {"files": Path("own").absolute(), "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield handler
        server.shutdown()
        thread.join()


def test_a_repository_is_downloaded_once_and_of_one_commit(hub):
    write_timm("own")
    expected = computed("local-dir:own")
    assert torch.equal(computed("hf-hub:someone/tiny"), expected)
    revisions = {place.partition("/")[::2] for place in hub.asked}
    assert ("main", "config.json") in revisions
    assert (COMMIT, "model.safetensors") in revisions
    hub.asked.clear()
    assert torch.equal(computed("hf-hub:someone/tiny"), expected)
    assert not hub.asked
    with pytest.raises(UnknownNameError, match="no repository 'someone/else' for 'hf-hub:someone/"):
        find_model("hf-hub:someone/else")


def test_a_hub_that_does_not_answer_is_not_waited_for(hub, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def wait(_: Hub) -> None:
        begun.set()
        ended.wait()

    monkeypatch.setattr(hub, "do_HEAD", wait)
    try:
        with pytest.raises(WeightsError, match="no answer within 1.5 s, set HF_HUB_ETAG_TIMEOUT"):
            find_model("hf-hub:someone/tiny")
        assert begun.is_set()
    finally:
        ended.set()


def write_json(path: str, content: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def write_layouts() -> None:
    """Folders that are no model, or no usable one."""
    write_json("empty/readme.json", {})
    write_json("list/config.json", [1])
    write_json("unknown/config.json", {"architecture": "vit_tny_patch16_224"})
    arguments = {"architecture": "vit_tiny_patch16_224", "model_args": {"legs": 4}}
    arguments["pretrained_cfg"] = {}
    write_json("arguments/config.json", arguments)
    write_json("text/config.json", {"model_type": "bert"})
    write_json("future/config.json", {"model_type": "vit9"})
    write_json("code/config.json", {"model_type": "x", "auto_map": {"AutoConfig": "x.X"}})
    write_json("audio/config.json", {"model_type": "wav2vec2"})
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    write_json("audio/preprocessor_config.json", extractor)
    padding = {"model_cfg": CLIP, "preprocess_cfg": {"resize_mode": "longest"}}
    write_json("padding/open_clip_config.json", padding)
    write_json("weightless/open_clip_config.json", {"model_cfg": CLIP})
    Path("damaged").mkdir()
    Path("damaged/config.json").write_text("{")
    patches = {"model_type": "vit", **SMALL}
    write_json("patches/config.json", patches)
    processor = {"image_processor_type": "Siglip2ImageProcessor"}
    write_json("patches/preprocessor_config.json", processor)


NO_MODELS = [
    ("hf_hub:a/b", UnknownNameError, "no model 'hf_hub:a/b'; expected one of .*'hf-hub'"),
    ("hf:", UnknownNameError, "no model 'hf:'; expected one of timm:NAME, hf-hub:ORG/NAME,"),
    ("hf-hub:a b/c", UsageError, "'hf-hub:a b/c' does not name a repository .* ORG/NAME@REV"),
    ("local-dir:none", PathMissingError, "no folder 'none' for the model 'local-dir:none'"),
    ("hf:./none", PathMissingError, "no folder './none' for the model"),
    ("local-dir:empty", UnknownNameError, "no model 'local-dir:empty': it has no config.json"),
    ("hf:empty", UnknownNameError, "no model 'hf:empty': it has no config.json in 'empty'"),
    ("local-dir:list", WeightsError, "'list/config.json' holds a list, expected an object"),
    ("hf:damaged", WeightsError, "'damaged/config.json' cannot be read"),
    ("local-dir:text", UnknownNameError, "does not describe a network of timm; .* as hf:ORG"),
    ("hf:unknown", UnknownNameError, "has no model_type; it is timm's: give it as hf-hub:ORG"),
    ("local-dir:unknown", UnknownNameError, "timm .* did you mean 'vit_tiny_patch16_224'"),
    ("local-dir:arguments", WeightsError, "does not suit timm .*'legs'"),
    ("hf:text", UnknownNameError, "is not an image model, or .* no preprocessor_config.json"),
    ("hf:audio", UnknownNameError, "does not describe an image processor of Transformers"),
    ("hf:future", UsageError, "Transformers .* cannot read .* model_type 'vit9'"),
    ("hf:code", UsageError, "needs Python code from its repository, which is not run"),
    ("hf:patches", UsageError, "Siglip2ImageProcessor.* of hf:patches does more to an image"),
    ("open_clip:RN5", UnknownNameError, "no model 'RN5' in OpenCLIP; .*; did you mean 'RN50'"),
    ("open_clip:RN50/openia", UnknownNameError, "it has openai, .*; did you mean 'openai'"),
    ("open_clip:local-dir:empty", UnknownNameError, "has no open_clip_config.json in 'empty'"),
    ("open_clip:local-dir:padding", UsageError, "pads its images with a border"),
    ("open_clip:local-dir:weightless", WeightsError, "no weights in 'weightless': expected"),
    ("padding", UnknownNameError, "give OpenCLIP's as open_clip:local-dir:padding"),
    ("text", UnknownNameError, "give timm's as local-dir:text, and .* as hf:text"),
]
IMPORTING = ("open_clip:", "hf:text", "hf:audio", "hf:future", "hf:code", "hf:patches")


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [pytest.param(*row, marks=[CI] if row[0].startswith(IMPORTING) else []) for row in NO_MODELS],
)
def test_what_is_no_model_is_told_in_one_sentence(name, error, told):
    write_layouts()
    with pytest.raises(error, match=told) as caught:
        FrozenBase(name, device="cpu")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BottleneckError)


@pytest.mark.parametrize(
    ("library", "name", "told"),
    [
        ("open_clip", "open_clip:RN50", r"needs open-clip-torch, .*'\.\[open-clip\]'"),
        ("transformers", "hf:someone/tiny", r"needs transformers, .*'\.\[transformers\]'"),
    ],
)
def test_a_missing_extra_is_named(library, name, told, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=told):
        find_model(name)


def test_commands_show_where_bases_come_from_and_their_preprocessing(bottleneck):
    write_timm("own")
    shown = bottleneck("layers", "local-dir:own")
    assert "resize the shorter side to 40 pixels (bilinear), crop 32 x 32; mean 0.5" in shown.err
    listed = bottleneck("models").err
    assert all(source.form in listed for source in SOURCES)
    refused = bottleneck("layers", "local-dir:none")
    assert refused.code == 2
    assert "no folder 'none'" in refused.err


@pytest.mark.ci
def test_open_clips_activation_is_that_of_the_weights():
    """OpenAI's networks have another one than the models of the same name by others."""
    names = ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/laion2b_e16")
    quick, exact = map(find_model, names)
    assert (next(iter(quick.weights)), next(iter(exact.weights))) == ("openai", "laion2b_e16")
    assert quick.architecture != exact.architecture
    assert not quick.weights.keys() & exact.weights.keys()
    with torch.device("meta"):
        blocks = [model.build((224, 224)).transformer.resblocks[0] for model in (quick, exact)]
    assert [type(block.mlp.gelu).__name__ for block in blocks] == ["QuickGELU", "GELU"]


@pytest.mark.ci
def test_the_preprocessing_in_words_is_that_of_the_transform():
    transform = find_model("open_clip:ViT-B-16-SigLIP2").transform
    assert transform.summary.startswith("squash to 224 x 224 pixels (bicubic); mean 0.5")
    assert np.asarray(transform(picture())).shape == (3, 224, 224)
