"""How fast predictions follow a context that is switched in mid-answer.

Every way to switch is followed along the same tokens (`teacher_forced`), so that its curves can
be compared, and in free generation (`free`), so that its answers can be checked. `cases` plans
without running a model what is read; `passes` reads it.
"""

from kvcore.measurements.context_switch.cases import refusal as refusal
from kvcore.measurements.context_switch.free import generate_after_switch as generate_after_switch
from kvcore.measurements.context_switch.teacher_forced import attribute as attribute
from kvcore.measurements.context_switch.teacher_forced import follow as follow
