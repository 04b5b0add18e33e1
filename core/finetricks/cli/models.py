"""The command that makes a model: an LSTM with a vocabulary of its own, to be pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetricks.cli.console import output, quiet_libraries, working


def new_lstm(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The model's folder, new.", show_default=False)],
    corpus: Annotated[
        list[Path],
        typer.Option("--corpus", metavar="FILE", help="Text for the vocabulary: a line a text, or a table."),
    ],
    *,
    column: Annotated[str, typer.Option(help="The text column of a corpus that is a table.")] = "text",
    bidirectional: Annotated[bool, typer.Option("--bidirectional", help="Read from the end, too (ELMo).")] = False,
    embedding: Annotated[int, typer.Option(min=1, help="Width of the embeddings and of the last layer.")] = 400,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the other layers.")] = 1150,
    layers: Annotated[int, typer.Option(min=1, help="How many layers.")] = 3,
    drop_mult: Annotated[
        float, typer.Option(min=0, help="Factor on all dropouts, which are those of a wide model.")
    ] = 1,
    vocabulary: Annotated[int, typer.Option(min=6, help="Words at the most, five special tokens included.")] = 30_000,
    seed: Annotated[int, typer.Option(min=0, help="The weights are drawn from it.")] = 0,
) -> None:
    """Make an untrained LSTM language model (ULMFiT, SiATL, ELMo); `further_pretraining` teaches it."""
    from finetricks.tasks.files import read_texts

    texts = [text for file in corpus for text in read_texts(file, column)]
    with working("making the model"):
        from finetricks.lstm import create_lstm

        quiet_libraries()
        create_lstm(
            out,
            texts,
            bidirectional=bidirectional,
            embedding_size=embedding,
            hidden_size=hidden,
            layers=layers,
            drop_mult=drop_mult,
            vocabulary=vocabulary,
            seed=seed,
        )
    output().print(f"an untrained LSTM: {out}", markup=False, soft_wrap=True)
