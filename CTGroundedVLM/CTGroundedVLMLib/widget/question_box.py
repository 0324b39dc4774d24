"""The question in free words: "Show me ... in [organ]"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from ..exchange import Answer
from .finding_rows import report_words

RED = "color: #c62828;"


class QuestionBox:
    """``on_asked(organ, text)`` is called with the question; organ None: it is to be taken from the words."""

    def __init__(
        self,
        edit: qt.QLineEdit,
        organ_combo: qt.QComboBox,
        button: qt.QPushButton,
        answer_label: qt.QLabel,
        on_asked: Callable[[str | None, str], None],
    ) -> None:
        self._edit, self._combo, self._button, self._label = edit, organ_combo, button, answer_label
        self._on_asked = on_asked
        self._organs: list[str | None] = [None]
        self._refusal = ""
        edit.connect("returnPressed()", self.ask)
        edit.connect("textChanged(QString)", self._update)
        button.connect("clicked()", self.ask)
        self.set_organs([])
        self.say("")

    def set_organs(self, organs: Sequence[str]) -> None:
        """The organs that can be asked about."""
        current = self._organs[self._combo.currentIndex] if self._combo.currentIndex >= 0 else None
        self._organs = [None, *organs]
        self._combo.clear()
        self._combo.addItem(_("as written"))
        for organ in organs:
            self._combo.addItem(organ.replace("_", " "))
        self._combo.setCurrentIndex(self._organs.index(current) if current in self._organs else 0)

    def set_refusal(self, why: str) -> None:
        """Why nothing can be asked now; "" when it can."""
        self._refusal = why
        self._update()

    def ask(self) -> None:
        """Ask what stands in the box."""
        text = self._edit.text.strip()
        if self._button.enabled and text:
            self.say(_("Looking…"))
            self._on_asked(self._organs[max(self._combo.currentIndex, 0)], text)

    def answer(self, answer: Answer) -> None:
        """Show the answer, and what the report says of it."""
        score = answer.score
        kind = _("calibrated") if score.calibrated else _("raw, not a frequency")
        text = _("{finding} in {organ}: probability {probability:.2f} ({kind})")
        organ = score.organ.replace("_", " ")
        said = text.format(finding=score.finding, organ=organ, probability=score.probability, kind=kind)
        if answer.comparison is not None:
            said += _(" · report: {words}").format(words=report_words(answer.comparison))
        self.say(said)

    def say(self, text: str, *, trouble: bool = False) -> None:
        """Show a line below the box; in red where something is wrong."""
        self._label.text = text
        self._label.styleSheet = RED if trouble else ""
        self._label.visible = bool(text)

    def _update(self) -> None:
        words = bool(self._edit.text.strip())
        self._button.enabled = words and not self._refusal
        hint = "" if words else _("Write what to look for.")
        self._button.toolTip = self._refusal or hint or _("Score this finding and show its heatmap")
