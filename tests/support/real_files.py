"""Files as people have them: each kind that public bug reports describe, by the name of its file."""

from tests.support.real_contents import content_cases
from tests.support.real_formats import format_cases

CASES = {case.name: case for case in [*format_cases(), *content_cases()]}
