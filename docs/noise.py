"""Print, from leaderboard.csv, how far above the least-squares optimum each batch size and lr ends."""

import pandas as pd

from pipeline.runs import outs

board = pd.read_csv(outs.LEADERBOARD)
reached = board["train/mse mean"] - board.loc[board["batch_size"] == "full", "train/mse mean"].min()
for title, values in (("while training", reached), ("after the last step", board["excess_mse mean"])):
    table = pd.crosstab(board["batch_size"], board["lr"], values=values, aggfunc="mean")
    print(f"{title}\n{table.to_string(float_format='{:.5f}'.format)}")
