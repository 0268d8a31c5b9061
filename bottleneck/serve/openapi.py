"""What the server answers, in the words of OpenAPI 3.1."""

from typing import Any

import bottleneck

__all__ = ["described"]


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_PREDICTION = _object(
    "What a head tells of an image; or, with `error`, why the image cannot be used.",
    image={"type": "integer", "description": "Place of the image in the request, from 0."},
    file={"type": ["string", "null"], "description": "Name that the form gives the image."},
    head=_text("Name of the head."),
    digest=_text("SHA-256 of the head's record, or of the .onnx file: it tells versions apart."),
    **{
        "class": {
            "type": ["string", "null"],
            "description": "The class with the highest probability; several are separated by "
            "semicolons. Null if the novelty is above the server's limit.",
        }
    },
    probabilities={
        "type": "object",
        "description": "Probability of each class; with `top`, of the likeliest.",
        "additionalProperties": {"type": "number"},
    },
    novelty={
        "type": ["number", "null"],
        "description": "Percentage of held-out images that are nearer to the training images; null "
        "if unknown.",
    },
    error=_text("Why the image cannot be used."),
)
_PREDICTIONS = _object(
    "Predictions of each image for each head.",
    predictions={"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
)
_SENTENCE = _text("One sentence: what was given, and what to do.")
_ERROR = _object("An error.", error=_SENTENCE)
_NO_IMAGE = _object(
    "An error of all images, and that of each.",
    error=_SENTENCE,
    predictions=_PREDICTIONS["properties"]["predictions"],
)
_REFUSALS = {
    "400": "The request has no image, or a parameter is invalid.",
    "401": "The token is missing or wrong.",
    "404": "No such head is served.",
    "405": "The address is asked by another method than its own.",
    "408": "The request came too slowly.",
    "413": "The request is too large, or has too many files.",
    "421": "Without a token, the server is asked by another name than this machine's own.",
    "422": "No image of the request can be used; each has its reason.",
    "429": "Too many images are waiting; try again later.",
    "500": "The server failed; its own output says why.",
    "503": "There was no answer in time, not enough memory, or too many connections.",
}
_KINDS = {"422": "NoImage"}
"""What refusals with more than a sentence are."""
_ALWAYS = ("421", "500", "503")


def _answers(description: str, kind: str = "application/json", **more: Any) -> dict[str, Any]:
    return (
        {"description": description, "content": {kind: more}}
        if more
        else {"description": description}
    )


def _refused(*codes: str) -> dict[str, Any]:
    kinds = {code: f"#/components/schemas/{_KINDS.get(code, 'Error')}" for code in codes}
    return {code: _answers(_REFUSALS[code], schema={"$ref": kinds[code]}) for code in codes}


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_IMAGE = {"type": "string", "format": "binary"}


def described() -> dict[str, Any]:
    """Return the description of the server.

    Returns
    -------
    dict of str to Any
        In JSON types.
    """
    predict = {
        "summary": "Predict the classes of images.",
        "description": "The body is the bytes of one image (JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, "
        "AVIF or HEIC), or a form with one or more files. An image that cannot be used has an "
        "error in its place, and the others are answered.",
        "parameters": [
            _query("top", "Give only this many classes, the likeliest.", type="integer", minimum=1),
            _query(
                "head",
                "Answer with this head only; may repeat. By default with all that are served.",
                type="array",
                items={"type": "string"},
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _IMAGE},
                "multipart/form-data": {
                    "schema": _object(
                        "Files under any name.", image={"type": "array", "items": _IMAGE}
                    )
                },
            },
        },
        "responses": {
            "200": _answers("Predictions.", schema={"$ref": "#/components/schemas/Predictions"}),
            **_refused(*_REFUSALS),
        },
        "security": [{}, {"token": []}],
    }
    known: dict[str, Any] = {"security": [{}, {"token": []}]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bottleneck",
            "version": bottleneck.__version__,
            "description": "Classes of images, by fitted heads.",
        },
        "paths": {
            "/predict": {"post": predict},
            "/health": {
                "get": {
                    "summary": "Whether the server answers.",
                    "responses": {
                        "200": _answers("It does.", schema=_object("", status=_text("ok"))),
                        **_refused(*_ALWAYS),
                    },
                }
            },
            "/info": {
                "get": {
                    "summary": "The heads that are served, their classes, and the limits.",
                    "responses": {
                        "200": _answers("The heads.", schema={"type": "object"}),
                        **_refused("401", *_ALWAYS),
                    },
                    **known,
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Figures of the server for Prometheus.",
                    "responses": {
                        "200": _answers("Text.", "text/plain", schema={"type": "string"}),
                        **_refused("401", *_ALWAYS),
                    },
                    **known,
                }
            },
        },
        "components": {
            "schemas": {
                "Prediction": _PREDICTION,
                "Predictions": _PREDICTIONS,
                "Error": _ERROR,
                "NoImage": _NO_IMAGE,
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
