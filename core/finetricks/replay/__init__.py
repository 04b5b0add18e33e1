"""Replay: what frozen layers give for a row is computed once and kept, and later passes begin above them.

`chain` finds the layers that can be left out, `course` says from a plan where they will be, `engine` leaves them out,
`keys` knows a row again, `check` sees to it that nothing changes, `store` and its implementations keep the states.
"""
