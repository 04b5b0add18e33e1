"""The conformance kit: what every trick must hold, for the tests of anyone's.

`check_trick(MyTrick())` raises with all that is wrong; `parametrize_with_checks([MyTrick()])` makes a test of each
check. Checks are chosen by the hooks that the trick implements. Nothing is downloaded: models are tiny.
"""

from finetricks.testing.bench import Bench
from finetricks.testing.kit import ORDER, check_trick, parametrize_with_checks
from finetricks.testing.subject import CheckFailed

__all__ = ["ORDER", "Bench", "CheckFailed", "check_trick", "parametrize_with_checks"]
