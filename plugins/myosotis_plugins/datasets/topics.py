"""The five text classifications of continual learning, and two of them by polarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from myosotis import hookimpl
from myosotis.interfaces import Row, Split, TaskDataset
from myosotis_plugins.datasets.benchmark import Benchmark
from myosotis_plugins.datasets.columns import LABEL, NUMBER, Kind
from myosotis_plugins.datasets.numbered import named

MYOSOTIS_API = 1

STARS = ("very negative", "negative", "neutral", "positive", "very positive")
NEUTRAL = STARS[2]
AGNEWS_LABELS = (
    "World",
    "Sports",
    "Business",
    "Science or Technology",
)
DBPEDIA_LABELS = (
    "Company",
    "Educational Institution",
    "Artist",
    "Athlete",
    "Office Holder",
    "Mean of Transportation",
    "Building",
    "Natural Place",
    "Village",
    "Animal",
    "Plant",
    "Album",
    "Film",
    "Written Work",
)
YAHOO_LABELS = (
    "Society & Culture",
    "Science & Mathematics",
    "Health",
    "Education & Reference",
    "Computers & Internet",
    "Sports",
    "Business & Finance",
    "Entertainment & Music",
    "Family & Relationships",
    "Politics & Government",
)


ARGUMENTS = """
    A folder may hold samples, such as those that O-LoRA took, balanced by class; the Hub gives all rows.

    Args:
        path: a folder with `train.jsonl` and `test.jsonl`, rows of `text` and `label`.
        length: the most tokens of a text with its label.
        by: `likelihood` of the labels' words, or a `head` of labels; `auto` takes likelihood with a decoder.
        own_head: whether the task has a head of its own, as in task-incremental learning; else it shares one.
        metrics: what the rows are scored by, the headline's first; the objective's own where not given.
        train_rows: how many rows are trained on, drawn once for all: fewer are among more; all where not given.
        streaming: whether rows and what they are encoded to stay on disk, with the same numbers; where not given,
            data of more than 256 MB do.
"""


class Topics(Benchmark):
    """Classifies texts, with labels in words. Labels of the same words are one label where tasks share a head."""

    paper = (
        "Zhang et al. 2015, Character-level Convolutional Networks for Text Classification, arXiv:1509.01626"
    )
    hub_splits: ClassVar[Mapping[Split, str]] = {"train": "train", "test": "test"}
    kinds: ClassVar[Mapping[str, Kind]] = {"label": LABEL, "topic": NUMBER}
    labels: ClassVar[tuple[str, ...]]
    asks: ClassVar[str] = "Topic"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    """The Hub's columns of text."""
    label_column: ClassVar[str] = "label"
    """The Hub's column of the label, a number."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = f"{cls.__doc__}\n{ARGUMENTS}"

    def __init__(
        self,
        path: str | None = None,
        length: int = 128,
        by: str = "auto",
        own_head: bool = False,
        metrics: list[str] | None = None,
        train_rows: int | None = None,
        streaming: bool | None = None,
    ) -> None:
        super().__init__(path, length, metrics, train_rows, streaming)
        self.by = by
        self.own_head = own_head

    def objective(self) -> tuple[str, Mapping[str, Any]]:
        """Choose classification."""
        return "classification", {
            "labels": self.labels,
            "length": self.length,
            "template": f"{{text}}\n{self.asks}:",
            "by": self.by,
            "head_name": type(self).__name__.lower() if self.own_head else "",
        }

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take a file's row as it is; of the Hub's, join the texts and name the label."""
        if isinstance(raw.get("label"), str):
            if raw["label"] not in self.labels:
                raise KeyError(f"no label {raw['label']!r}")
            return {"text": raw["text"], "label": raw["label"]}
        texts = [raw[column] for column in self.columns if raw[column]]
        return {"text": "\n".join(texts), "label": named(raw[self.label_column], self.labels)}


class AGNews(Topics):
    """Tell the section of a piece of news: World, Sports, Business, or Science and Technology."""

    hub = "fancyzhx/ag_news"
    labels = AGNEWS_LABELS


class Amazon(Topics):
    """Tell the stars of a review of a product. The Hub no longer has Zhang's: from there come others like them."""

    hub = "SetFit/amazon_reviews_multi_en"
    labels = STARS
    asks = "Sentiment"


class DBpedia(Topics):
    """Tell what kind of thing an article of Wikipedia is about."""

    hub = "fancyzhx/dbpedia_14"
    labels = DBPEDIA_LABELS
    columns = ("title", "content")


class Yahoo(Topics):
    """Tell the topic of a question with its answer."""

    hub = "community-datasets/yahoo_answers_topics"
    labels = YAHOO_LABELS
    columns = ("question_title", "question_content", "best_answer")
    label_column = "topic"


class Yelp(Topics):
    """Tell the stars of a review of a place."""

    hub = "Yelp/yelp_review_full"
    labels = STARS
    asks = "Sentiment"


class Polarity(Topics):
    """Tells whether a review is positive: of five stars one and two are negative, four and five are positive.

    Those of three stars are left out.
    """

    labels = ("negative", "positive")
    asks = "Sentiment"

    def keeps(self, raw: Mapping[str, Any]) -> bool:
        """Leave out what is neither."""
        return raw.get("label") != NEUTRAL

    def row(self, raw: Mapping[str, Any]) -> Row:
        """Take a file's stars as the polarity that they say."""
        label = raw.get("label")
        if label in STARS:
            return {"text": raw["text"], "label": self.labels[STARS.index(label) > STARS.index(NEUTRAL)]}
        return super().row(raw)


class YelpPolarity(Polarity):
    """Tell whether a review of a place is positive. A folder may be that of `yelp`."""

    hub = "fancyzhx/yelp_polarity"


class AmazonPolarity(Polarity):
    """Tell whether a review of a product is positive. A folder may be that of `amazon`."""

    hub = "fancyzhx/amazon_polarity"
    columns = ("title", "content")


@hookimpl
def myosotis_datasets() -> Mapping[str, type[TaskDataset]]:
    """Give the datasets."""
    five = {"agnews": AGNews, "amazon": Amazon, "dbpedia": DBpedia, "yahoo": Yahoo, "yelp": Yelp}
    return {**five, "yelp_polarity": YelpPolarity, "amazon_polarity": AmazonPolarity}
