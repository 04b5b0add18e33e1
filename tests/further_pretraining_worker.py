"""Begins a further pretraining and kills itself, the hard way, after the second checkpoint."""

from __future__ import annotations

import os
import signal

import tiny
from finetricks_plugins.init.further_pretraining import FurtherPretraining
from finetricks_plugins.language_model.cache import Entry

SETTINGS = {"steps": 9, "checkpoint": 2, "mask_token_id": 4, "learning_rate": 1e-2, "batch_size": 8}


def main() -> None:
    save = Entry.save_progress

    def save_and_die(self: Entry, step: int, state: dict) -> None:
        save(self, step, state)
        if step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    Entry.save_progress = save_and_die
    tiny.recipe(FurtherPretraining(**SETTINGS)).bind(tiny.bert(), tiny.loader())


if __name__ == "__main__":
    main()
