"""Write prompts whose answers are hard to draft: random words, random letters and digits, a different language in each line.

usage: python dev/measure/defeating_prompts.py > defeating.jsonl      (always the same file)
"""

from __future__ import annotations

import json
import random
import re
import string

SYLLABLES = re.findall("[a-z]+", "ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo yu zan bler cron dral fisk grum horp jint")
SENTENCES = [
    "Der Regen fällt leise auf das alte Dach am Rand der Stadt.",
    "Le boulanger ouvre sa porte avant que le soleil ne se lève.",
    "Mañana iremos al mercado para comprar naranjas y pan fresco.",
    "O gato dorme na janela enquanto as crianças jogam na rua.",
    "Il treno per Bologna parte dal binario sette con dieci minuti di ritardo.",
    "Zima przyszła wcześnie i jezioro zamarzło w jedną noc.",
    "Kaptanın kızı limanda mavi bir gemi bekliyor.",
    "De fiets staat tegen de muur naast de groene deur.",
    "Vanha karhu nukkuu talvella metsän laidalla.",
    "Barnen plockar blåbär vid den lilla röda stugan.",
    "Nenek menanam padi di lereng gunung setiap musim hujan.",
    "Bác nông dân dắt trâu ra đồng từ sáng sớm.",
    "Az öreg órás minden este felhúzza a toronyórát.",
    "Rybář zapomněl svou síť na břehu široké řeky.",
]


def word(rng: random.Random) -> str:
    """An invented word."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))


def prompts(rng: random.Random) -> list[tuple[str, str]]:
    """(category, prompt) of all prompts."""
    found = []
    for _ in range(6):
        words = " ".join(word(rng) for _ in range(60))
        found.append(("random words", f"Continue this list with new invented words, never repeat one:\n{words}"))
    for _ in range(4):
        codes = "\n".join("".join(rng.choices(string.ascii_letters + string.digits, k=24)) for _ in range(12))
        found.append(("random codes", f"Here are secret codes. Write twelve new ones, all different:\n{codes}"))
    for _ in range(6):
        lines = "\n".join(rng.sample(SENTENCES, 10))
        found.append(("languages", f"Each line is in another language. Write ten new lines, each in another language:\n{lines}"))
    return found


if __name__ == "__main__":
    for number, (category, prompt) in enumerate(prompts(random.Random(20260)), start=1):
        print(json.dumps({"id": number, "category": category, "prompt": prompt}, ensure_ascii=False))  # noqa: T201
