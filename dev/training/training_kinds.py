"""Prompts of kinds that the data folders lack: knowledge questions, articles, translations, summaries and retrieved passages.

Topics and words are in dev/training/training_topics.json. Passages are cut from articles that the default model has written, so their
prompts can be made only after those answers exist.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PREFIXES = ("question-", "article-", "news-", "german-", "retrieved-", "summary-")  # of the ids
Prompt = tuple[str, str]  # id, text of the user
TOPICS: dict[str, Any] = json.loads(Path(__file__).with_name("training_topics.json").read_text("utf-8"))
NUM_QUESTIONS = 4  # per topic; NUM_RETRIEVED further questions are about passages
NUM_RETRIEVED = 1
NUM_TRANSLATIONS, NUM_SUMMARIES = 1000, 300
PASSAGE = 600  # characters
TRANSLATIONS = (
    "Translate German to English: {}",
    "Translate German to English: {}",
    "Translate the following German sentence into English.\n\n{}",
    "What does this mean in English? {}",
)
SUMMARIES = (
    "Summarize: {}",
    "Summarize: {}",
    "{}\n\nTL;DR",
    "Summarize the following article in three sentences.\n\n{}",
    "{}\nWhat is this text about?",
)
RETRIEVED = (
    "{passages}\n{question}",
    "{passages}\n{question}",
    "Answer the question from the passages.\n\n{passages}\n\nQuestion: {question}",
    "{passages}\n\nUsing only the text above, {question}",
)


def capital(text: str) -> str:
    """The text with its first letter capitalized."""
    return text[0].upper() + text[1:]


def questions(source: random.Random) -> Iterator[tuple[str, str, list[str]]]:
    """(kind, topic, its questions in random order)."""
    for kind, topics in TOPICS["topics"].items():
        for topic in topics:
            asked = [form.format(topic) for form in TOPICS["questions"][kind]]
            source.shuffle(asked)
            yield kind, topic, asked


def articles() -> Iterator[Prompt]:
    """Prompts for articles, from whose answers passages are cut."""
    for topics in TOPICS["topics"].values():
        for topic in topics:
            for i, form in enumerate(TOPICS["articles"]):
                yield f"article-{i}-{topic}", form.format(topic)
    for i, event in enumerate(TOPICS["news"]):
        yield f"news-0-{i}", f"Write a newspaper article about {event}."
        yield f"news-1-{i}", f"Write a short news story about {event}, with names, places and quotes."


def german(source: random.Random) -> str:
    """A random German sentence in newspaper style."""
    words = TOPICS["german"]
    subject, (verb, rest), time, place = (source.choice(words[name]) for name in ("subjects", "predicates", "times", "places"))
    body = source.choice((f"{subject} {verb} {time} {rest}", f"{time} {verb} {subject} {place} {rest}", f"{place} {verb} {subject} {rest}"))
    text = capital(body) + (f", {source.choice(words['tails'])}" if source.random() < 0.6 else "")
    if source.random() < 0.2:
        return f"„{text}“, {source.choice(words['speakers'])}."
    return text.replace(",", " ,") + " ." if source.random() < 0.5 else text + "."


def translations(source: random.Random) -> Iterator[Prompt]:
    """One to three German sentences to translate."""
    for i in range(NUM_TRANSLATIONS):
        text = " ".join(german(source) for _ in range(source.choice((1, 1, 2, 3))))
        yield f"german-{i}", source.choice(TRANSLATIONS).format(text)


def without_passages() -> Iterator[Prompt]:
    """The prompts that need no passages."""
    source = random.Random(1)
    for _, topic, asked in questions(source):
        for i, question in enumerate(asked[:NUM_QUESTIONS]):
            yield f"question-{i}-{topic}", question
    yield from articles()
    yield from translations(source)


def with_passages(written: Mapping[str, str]) -> Iterator[Prompt]:
    """Prompts for summaries of, and questions about, the answers to `articles` (id -> text)."""
    source = random.Random(2)
    names = [name for name, _ in articles() if len(written.get(name, "")) > PASSAGE // 2]
    if not names:
        return
    for _, topic, asked in questions(source):
        for i, question in enumerate(asked[-NUM_RETRIEVED:]):
            own = [name for name in names if name == f"article-{i}-{topic}"]
            others = source.sample(names, source.choice((1, 2, 2)))
            passages = [cut(written[name], source) for name in own + others]
            source.shuffle(passages)
            yield f"retrieved-{i}-{topic}", source.choice(RETRIEVED).format(passages="\n".join(passages), question=question)
    for i in range(NUM_SUMMARIES):
        text = " ".join(written[name] for name in source.sample(names, source.choice((1, 2, 3))))
        yield f"summary-{i}", source.choice(SUMMARIES).format(" ".join(text.split())[: source.randint(500, 1800)])


def cut(text: str, source: random.Random) -> str:
    """A piece of a text that starts at a random word."""
    words = " ".join(text.split()).split(" ")
    start = source.randint(0, len(words) // 3) if source.random() < 0.6 else 0
    return " ".join(words[start:])[:PASSAGE]
