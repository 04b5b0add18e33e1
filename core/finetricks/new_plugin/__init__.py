"""A package to begin a trick of one's own with."""

from finetricks.new_plugin.write import STARTS, write_plugin

__all__ = ["STARTS", "write_plugin"]
