"""Commands at a terminal, on the toy model: what is shown, and what keys do."""

from __future__ import annotations

import subprocess

import pytest

pty = pytest.importorskip("pty", reason="terminals of POSIX")

from terminal_tools import CTRL_C, CTRL_D, ENVIRONMENT, TOY, Terminal


def test_chat_says_who_answers_and_how_to_leave():
    with Terminal("chat", "--max-tokens", "5") as terminal:
        terminal.wait_for("toy (f32, drafter auto, temperature 0.7)")
        end = terminal.wait_for("/help lists the commands, Ctrl-D quits\n> ")
        terminal.type("/help\n")
        end = terminal.wait_for("/system TEXT", end)
        end = terminal.wait_for("> ", end)
        terminal.type("hello\n")
        end = terminal.wait_for("tokens per step]", end)
        end = terminal.wait_for("[stopped at --max-tokens 5]", end)
        end = terminal.wait_for("> ", end)
        terminal.type("/nonsense\n")
        end = terminal.wait_for("there is no command /nonsense; /help lists them", end)
        terminal.wait_for("> ", end)
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_ctrl_c_at_the_prompt_drops_the_line_and_in_an_answer_the_answer():
    with Terminal("chat", "--max-tokens", "100000", "--ignore-eos") as terminal:
        end = terminal.wait_for("quits\n> ")
        terminal.type("half a qu")
        end = terminal.wait_for("half a qu", end)
        end = terminal.press_until("> ", CTRL_C, end)
        terminal.type("hello\n")
        end = terminal.wait_for_more(terminal.wait_for("hello\n", end))  # a key pressed before would drop the question
        end = terminal.press_until("[stopped; this turn is not part of the conversation]", CTRL_C, end)
        terminal.wait_for("> ", end)
        terminal.type("/exit\n")
        assert terminal.end() == 0


def test_a_question_of_several_lines():
    with Terminal("chat", "--max-tokens", "3") as terminal:
        end = terminal.wait_for("quits\n> ")
        for line in ('"""first', "second", 'third"""'):
            terminal.type(f"{line}\n")
            end = terminal.wait_for(line, end)
        assert "... second" in terminal.text
        end = terminal.wait_for("tokens per step]", end)
        terminal.type("\x1b[200~one\ntwo\x1b[201~\n")  # as a terminal hands over what is pasted
        end = terminal.wait_for("tokens per step]", end)
        terminal.wait_for("> ", end)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
        assert terminal.text.count("tokens per step]") == 2


def test_generate_without_a_prompt_does_not_wait_for_one():
    with Terminal("generate") as terminal:
        assert terminal.end() == 2
        assert terminal.text == "error: there is no prompt: give it as an argument, with --file, or through a pipe\n"


def test_slow_loading_is_shown_and_leaves_no_trace():
    with Terminal("generate", "hello", "--max-tokens", "3", OUTPACE_TOY_SECONDS="4") as terminal:
        terminal.wait_for("loading toy ...")
        assert terminal.end() == 0
        assert terminal.raw.rpartition("loading toy ...")[2].count("\x1b[2K") >= 1  # the line is wiped
    done = subprocess.run(
        [*TOY, "generate", "hello", "--max-tokens", "3"],
        env={**ENVIRONMENT, "OUTPACE_TOY_SECONDS": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == "loading toy ...\n"
    done = subprocess.run(
        [*TOY, "generate", "hello", "--max-tokens", "3"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
