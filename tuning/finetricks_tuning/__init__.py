"""Studies: which tricks help on this model and this data, on Ray Tune.

`from finetricks_tuning.study import Study` and `from finetricks_tuning.sweep import sweep`.
"""
