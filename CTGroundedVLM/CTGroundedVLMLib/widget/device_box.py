"""The choice of the device; names and free memory are known once the worker has said them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _


class DeviceBox:
    """``on_chosen(device)`` is called with "auto", "cpu", "cuda" or "cuda:N" when the user takes one."""

    def __init__(self, combo: qt.QComboBox, on_chosen: Callable[[str], None]) -> None:
        self._combo, self._on_chosen = combo, on_chosen
        self._devices: list[str] = []
        self._fill({"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("GPU (CUDA)")})
        combo.connect("activated(int)", lambda index: on_chosen(self._devices[index]))

    def _fill(self, names: Mapping[str, str]) -> None:
        self._devices = list(names)
        self._combo.clear()
        for name in names.values():
            self._combo.addItem(name)

    def set_devices(self, devices: Sequence[Mapping[str, Any]], current: str) -> None:
        """What the worker found ("hello"): device, name, free_bytes (None where it is not known), total_bytes."""
        names = {"auto": _("Automatic")}
        for device in devices:
            free, total = device["free_bytes"], device["total_bytes"] / 2**30
            known = _("{free:.0f} of {total:.0f} GB free") if free is not None else _("{total:.0f} GB")
            memory = known.format(free=(free or 0) / 2**30, total=total)
            names[device["device"]] = f"{device['name']}: {memory}"
        self._fill(names)
        self.show(current)

    def show(self, device: str) -> None:
        """Show a choice; one that this computer lacks (of a scene from elsewhere) is added as it is."""
        if device not in self._devices:
            self._devices.append(device)
            self._combo.addItem(device)
        self._combo.setCurrentIndex(self._devices.index(device))
