"""The supported boards: part, top module, constraints, oscillator and PLL.

These bitstreams have not been tried on a board yet. `constraints/*.lpf` name the sources of all pin assignments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accel.npu.hardware.sources import RTL, rtl_parameters
from accel.npu.profile import NpuProfile
from accel.npu.registers import DEFAULT_BAUD
from edgewright.contracts.names import nearest
from edgewright.errors import BadInputError, NotFoundError, ProfileError

CONSTRAINTS = Path(__file__).parents[1] / "constraints"

# The limits of the PLL, from the ECP5 data sheet (FPGA-DS-02012, sysCLOCK PLL timing).
_PHASE_DETECTOR_MHZ = (10.0, 400.0)
_VCO_MHZ = (400.0, 800.0)
_DIVIDERS = range(1, 129)

_BAUD_ERROR_LIMIT = 0.02
"""Largest relative speed error: host and board together may drift by less than half a bit in the ten bits of a byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """FPGA board. Its constraints are `constraints/<name>.lpf`."""

    name: str
    """Name of the board, and of the NPU profile for it."""
    top: str
    part_option: str
    """Option of nextpnr-ecp5 for the part."""
    package: str
    speed_grade: int
    oscillator_mhz: float

    @property
    def constraints(self) -> Path:
        """Pin assignments in Lattice's preference file format."""
        return CONSTRAINTS / f"{self.name}.lpf"

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files that determine the bitstream, in a fixed order."""
        tops = (RTL / "ecp5" / f"{name}.sv" for name in ("npu_clock", self.top))
        return (*sorted(RTL.glob("*.sv*")), *tops, self.constraints)


@dataclass(frozen=True, slots=True)
class PllDividers:
    """Dividers of the PLL: oscillator / input x feedback is the VCO frequency, VCO / output the clock."""

    input: int
    feedback: int
    output: int


BOARDS = {
    board.name: board
    for board in (
        Board(
            name="colorlight-i9",
            top="npu_colorlight_i9",
            part_option="--45k",
            package="CABGA381",
            speed_grade=6,
            oscillator_mhz=25.0,
        ),
        Board(
            name="ulx3s-85f",
            top="npu_ulx3s",
            part_option="--85k",
            package="CABGA381",
            speed_grade=6,
            oscillator_mhz=25.0,
        ),
    )
}


def find_board(name: str) -> Board:
    """Return the board called `name`; raise `NotFoundError` if there is no such board."""
    if name not in BOARDS:
        raise NotFoundError(f"there is no board {name!r} to build a bitstream for{nearest(name, BOARDS)}")
    return BOARDS[name]


def top_parameters(profile: NpuProfile, board: Board, baud: int) -> dict[str, int | str]:
    """Return the parameters of the board's top module for a profile.

    Raises:
        ProfileError: the PLL cannot make the profile's clock from the board's oscillator.
        BadInputError: the clock cannot be divided to `baud` bits per second within 2%.
    """
    dividers = pll_dividers(board.oscillator_mhz, profile.clock_mhz)
    return {
        **rtl_parameters(profile),
        "CYCLES_PER_BIT": cycles_per_bit(profile.clock_mhz, baud),
        "INPUT_DIVIDER": dividers.input,
        "FEEDBACK_DIVIDER": dividers.feedback,
        "OUTPUT_DIVIDER": dividers.output,
    }


def pll_dividers(oscillator_mhz: float, clock_mhz: float) -> PllDividers:
    """Return the dividers for exactly `clock_mhz` with the fastest phase detector.

    Raises:
        ProfileError: there are no such dividers.
    """
    for divider in _DIVIDERS:
        reference_mhz = oscillator_mhz / divider
        if not _PHASE_DETECTOR_MHZ[0] <= reference_mhz <= _PHASE_DETECTOR_MHZ[1]:
            continue
        for feedback in _DIVIDERS:
            vco_mhz = reference_mhz * feedback
            output = round(vco_mhz / clock_mhz)
            if _VCO_MHZ[0] <= vco_mhz <= _VCO_MHZ[1] and output in _DIVIDERS and abs(vco_mhz / output - clock_mhz) < 1e-6:
                return PllDividers(divider, feedback, output)
    raise ProfileError(
        f"clock_mhz must be a frequency that an ECP5 PLL generates from {oscillator_mhz:g} MHz, but {clock_mhz:g} is not; "
        "try a multiple of 2.5 MHz"
    )


def cycles_per_bit(clock_mhz: float, baud: int) -> int:
    """Return the clock cycles of one bit on the serial line.

    Raises:
        BadInputError: the clock cannot be divided to `baud` bits per second within 2%.
    """
    exact = clock_mhz * 1e6 / baud
    cycles = round(exact)
    if cycles < 4 or abs(cycles / exact - 1) > _BAUD_ERROR_LIMIT:
        raise BadInputError(
            f"baud must be {clock_mhz:g} MHz divided by a whole number of at least 4, within 2%, but {baud} is not; "
            f"{DEFAULT_BAUD} and 115200 work at 60 MHz"
        )
    return cycles
