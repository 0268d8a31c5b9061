"""Every public name, used as a program would use it; mypy checks this file strictly. 20 s."""

import ast
from pathlib import Path

import numpy as np
import pytest

import bottleneck
from bottleneck import (
    MLP,
    AdviseSettings,
    BottleneckFeatures,
    Cache,
    ExperimentLog,
    ExportSettings,
    ExtractSettings,
    FinetuneSettings,
    FitSettings,
    FrozenBase,
    Head,
    HeadClassifier,
    ImageSet,
    Predictor,
    PredictorSettings,
    PredictSettings,
    ReportSettings,
    ServeSettings,
    SuggestSettings,
    SuspectSettings,
    SweepSettings,
    advise_on,
    evaluate_head,
    export_head,
    extract_features,
    feature_rows,
    features_of,
    find_suspects,
    finetune_head,
    fit_head,
    join_layers,
    load_base,
    load_bases,
    load_features,
    make_report,
    misclassified,
    predict_images,
    run_sweep,
    select_features,
    select_layers,
    similar_images,
    suggest_images,
    unpack_head,
    write_report,
)
from bottleneck.errors import DataError, UsageError


@pytest.mark.ci
def test_from_images_to_a_fine_tuned_head(faces: Path, lite0: FrozenBase) -> None:
    images: ImageSet = ImageSet.from_folder(faces)
    cache = Cache("cache")
    assert extract_features(images, lite0, cache).computed == 200
    assert extract_features(faces, lite0, "cache").computed == 0
    settings = ExtractSettings(model="efficientnet_lite0", batch_size=64)
    assert settings.model == lite0.model

    features = load_features(cache, layer="penultimate")
    head: Head = fit_head(features, FitSettings(clf="softmax", C=0.01))
    accuracy: float = evaluate_head(head, features).accuracy
    assert accuracy > 0.9
    head.save("heads/softmax")
    assert Head.load("heads/softmax").classes == ("face", "no_face")
    assert features_of(head.source, cache, split="test").X.shape[1] == 1280
    assert fit_head(features, MLP(hidden=8, epochs=2)).clf == "mlp"

    base: FrozenBase = load_base(head)
    bases: list[FrozenBase] = load_bases(head)
    assert [each.layers for each in bases] == [base.layers]
    chosen = PredictSettings(batch_size=2)
    for prediction in predict_images(head, [faces / "face/000.png"], chosen, base=base):
        assert isinstance(prediction, bottleneck.predict.Prediction)
        assert prediction.label == "face"

    few = FinetuneSettings(unfreeze="conv_head", epochs=1, val_share=0.2)
    tuned = finetune_head(head, images, cache, Path("heads/tuned"), few)
    assert tuned.head.classes == head.classes


@pytest.mark.ci
def test_layers_are_compared(faces_cache: Cache) -> None:
    layers = select_layers(faces_cache)
    assert layers == [select_features(faces_cache)]
    with pytest.raises(UsageError, match="at least two layers"):
        join_layers([select_features(faces_cache)])
    log = ExperimentLog("experiments.sqlite")
    rows = run_sweep(faces_cache, layers, log, SweepSettings(clfs=("ridge",), C=(0.1,)), jobs=1)
    assert len(rows) == len(log.experiments()) == 1
    verdict: str = advise_on(faces_cache, layers, AdviseSettings(repeats=1, cv=2)).verdict.kind
    assert verdict


def test_mistakes_are_listed(faces_cache: Cache) -> None:
    head = fit_head(load_features(faces_cache), "centroid")
    wrong = misclassified(head, features_of(head.source, faces_cache))
    assert all(each.label != each.predicted for each in wrong)


def test_similar_images_are_found(faces: Path, faces_cache: Cache) -> None:
    source, images = select_features(faces_cache), ImageSet.from_paths([faces / "face/000.png"])
    rows = feature_rows(source, images, cache=faces_cache)
    (found,), _ = similar_images(load_features(faces_cache), images, rows, top=3)
    assert [each.item.label for each in found.neighbours] == ["face"] * 3


@pytest.mark.ci
def test_labels_are_judged_and_a_report_is_written(faces: Path, faces_cache: Cache) -> None:
    features = load_features(faces_cache)
    suspects = find_suspects(features, SuspectSettings(clf="softmax"))
    assert suspects.images == 160
    head = fit_head(features, "centroid")
    chosen = SuggestSettings(n=2)
    with pytest.raises(DataError, match="200 images are labelled already"):
        suggest_images(head, ImageSet.from_paths([faces]), chosen, cache=faces_cache)
    report = make_report(faces_cache, {"head": head}, ReportSettings(images=20))
    assert write_report(report, "report.html").stat().st_size > 10_000


@pytest.mark.ci
def test_a_head_is_exported_and_predicts_elsewhere(faces: Path, faces_cache: Cache) -> None:
    fit_head(load_features(faces_cache), "centroid").save("heads/near")
    found = export_head("near", "near.zip", ExportSettings(card=True), cache=faces_cache)
    assert found.same == found.clear > 0
    chosen = PredictorSettings(batch_size=2)
    predictor = Predictor(unpack_head("near.zip", "elsewhere"), chosen)
    assert predictor.predict(faces / "face/000.png").tolist() == ["face"]
    assert predictor.predict_proba([faces / "face/000.png"]).shape == (1, 2)
    assert ServeSettings(port=0).host == "127.0.0.1"


def test_scikit_learns_estimators(faces: Path) -> None:
    paths = sorted(faces.rglob("*.png"))[::20]
    transformer = BottleneckFeatures("efficientnet_lite0", cache="cache")
    matrix = transformer.fit_transform(paths)
    labels = np.array([path.parent.name for path in paths])
    assert HeadClassifier("ridge", C=1.0).fit(matrix, labels).score(matrix, labels) == 1


def test_every_public_name_is_used_here() -> None:
    tree = ast.parse(Path(__file__).read_text())
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(bottleneck.__all__) - {"__version__"} <= used
