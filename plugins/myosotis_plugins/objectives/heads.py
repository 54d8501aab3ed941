"""What objectives need at a model's end: which of transformers' classes, and which labels it tells apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from myosotis.errors import ModelError
from myosotis.interfaces import Model, Objective

Shape = Literal["decoder", "encoder", "encoder-decoder"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

CAUSAL = "AutoModelForCausalLM"
MASKED = "AutoModelForMaskedLM"
SEQUENCE_TO_SEQUENCE = "AutoModelForSeq2SeqLM"
SEQUENCE_LABELS = "AutoModelForSequenceClassification"
TOKEN_LABELS = "AutoModelForTokenClassification"


@dataclass(frozen=True)
class Head:
    """A model's end.

    Attributes:
        kind: the class of transformers that loads it.
        labels: what it tells apart, in the order of its outputs; empty where these are tokens.
        owners: the name of the head that each label belongs to; empty where none has a name.
    """

    kind: str
    labels: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()

    @property
    def may_be_new(self) -> bool:
        """Whether a base may come without it: it then begins with random weights."""
        return self.kind not in (CAUSAL, SEQUENCE_TO_SEQUENCE)


@runtime_checkable
class HasHead(Protocol):
    """An objective that says what it needs; others get a causal language model."""

    def head(self, shape: Shape) -> Head:
        """Say what is needed of a model of a shape.

        Raises:
            ModelError: nothing of that shape would do.
        """


def shape_of(config: Any) -> Shape:
    """Tell a model's shape by its configuration; what has none is taken for a decoder."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    kind = getattr(config, "model_type", None)
    if kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "decoder"
    causal = set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = set(getattr(config, "architectures", None) or ())
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES[kind]
    return "decoder" if named & causal and masked not in named else "encoder"


def common_head(objectives: Collection[Objective], shape: Shape) -> Head:
    """Give the one head that all objectives can use; its labels are those of all, in their order.

    Raises:
        ModelError: they need several, nothing of this shape would do, or two heads name a label the same.
    """
    heads = [each.head(shape) if isinstance(each, HasHead) else Head(CAUSAL) for each in objectives]
    kinds = list(dict.fromkeys(head.kind for head in heads))
    if len(kinds) > 1:
        named = " and ".join(
            f"{type(each).__name__} ({head.kind})" for each, head in zip(objectives, heads, strict=True)
        )
        raise ModelError(
            f"all tasks and probes of a trial must have one kind of head, but they need {named}; leave one kind "
            "out, or take by=likelihood where the model is a decoder"
        )
    owners = _owners(heads)
    kind = kinds[0] if kinds else CAUSAL
    return Head(kind, tuple(owners), tuple(owners.values()) if any(owners.values()) else ())


def _owners(heads: Sequence[Head]) -> Mapping[str, str]:
    """Give the owner of each label of several heads."""
    owners: dict[str, str] = {}
    for head in heads:
        for label, owner in zip(head.labels, head.owners or [""] * len(head.labels), strict=True):
            if owners.setdefault(label, owner) != owner:
                raise ModelError(
                    f"an output must belong to one head, but {label!r} names one of the head {owner!r} and one of "
                    f"{owners[label]!r}; give a task another head_name"
                )
    return owners


def may_tell_labels(objective: Objective) -> bool:
    """Tell whether an objective asks some shape of model for a head of labels."""
    return isinstance(objective, HasHead) and any(_labels(objective, shape) for shape in SHAPES)


def _labels(objective: HasHead, shape: Shape) -> tuple[str, ...]:
    try:
        return objective.head(shape).labels
    except ModelError:
        return ()


def only(objective: Objective, shape: Shape, wanted: Shape, kind: str, instead: str) -> Head:
    """Give a head for the one shape that an objective works with.

    Raises:
        ModelError: it is another.
    """
    if shape != wanted:
        raise ModelError(
            f"{type(objective).__name__} must have a model that is a {wanted}, but this one is a {shape}; {instead}"
        )
    return Head(kind)


def set_labels(config: Any, head: Head) -> None:
    """Write a head's labels, and whose they are, into the configuration of the model that it is for."""
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: number for number, label in config.id2label.items()}
    config.label_owners = list(head.owners)


def outputs_of(config: Any, owner: str) -> list[int]:
    """Find all outputs of one head in a loaded model that has several; also those of other tasks that share it."""
    owners = config.label_owners or [""] * config.num_labels
    return [number for number, each in enumerate(owners) if each == owner]


def columns_of(config: Any, labels: Sequence[str]) -> list[int]:
    """Find the outputs of a loaded model that stand for labels."""
    return [int(config.label2id[label]) for label in labels]


def label_names(model: Model) -> Mapping[int, str]:
    """Give the labels of a loaded model's outputs."""
    config: Any = model.module.config
    names: Mapping[int, str] = config.id2label
    return names
