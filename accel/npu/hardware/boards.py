"""The boards that a bitstream can be built for: part, top module, constraints, oscillator, and the clock that its PLL makes.

Nobody has tried these bitstreams on a board yet. Where every pin fact comes from stands in `constraints/*.lpf`.
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
"""Ten bits of a byte may drift by less than half a bit, both sides together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One FPGA board. Its constraints are `constraints/<name>.lpf`."""

    name: str
    """As the NPU profile that was made for it."""
    top: str
    part_option: str
    """How nextpnr-ecp5 calls the part."""
    package: str
    speed_grade: int
    oscillator_mhz: float

    @property
    def constraints(self) -> Path:
        """The pins, in Lattice's preference file format."""
        return CONSTRAINTS / f"{self.name}.lpf"

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file that decides what is built, in a fixed order."""
        tops = (RTL / "ecp5" / f"{name}.sv" for name in ("npu_clock", self.top))
        return (*sorted(RTL.glob("*.sv*")), *tops, self.constraints)


@dataclass(frozen=True, slots=True)
class PllDividers:
    """oscillator / input x feedback is the frequency inside the PLL; that / output is the clock."""

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
    """Return the board called `name`; raise `NotFoundError` when there is none."""
    if name not in BOARDS:
        raise NotFoundError(f"there is no board {name!r} to build a bitstream for{nearest(name, BOARDS)}")
    return BOARDS[name]


def top_parameters(profile: NpuProfile, board: Board, baud: int) -> dict[str, int | str]:
    """Return the parameters of the board's top module that make it this profile's machine.

    Raises:
        ProfileError: the PLL cannot make the profile's clock from the board's oscillator.
        BadInputError: the clock cannot be divided down to `baud` bits per second within 2 %.
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
    """Return the dividers that make exactly `clock_mhz`, with the phase detector as fast as it goes."""
    for divider in _DIVIDERS:
        compared = oscillator_mhz / divider
        if not _PHASE_DETECTOR_MHZ[0] <= compared <= _PHASE_DETECTOR_MHZ[1]:
            continue
        for feedback in _DIVIDERS:
            inside = compared * feedback
            output = round(inside / clock_mhz)
            if _VCO_MHZ[0] <= inside <= _VCO_MHZ[1] and output in _DIVIDERS and abs(inside / output - clock_mhz) < 1e-6:
                return PllDividers(divider, feedback, output)
    raise ProfileError(
        f"clock_mhz must be a frequency that an ECP5's PLL makes from {oscillator_mhz:g} MHz, but {clock_mhz:g} is none; "
        "try a multiple of 2.5 MHz"
    )


def cycles_per_bit(clock_mhz: float, baud: int) -> int:
    """Return how many clock cycles one bit of the serial line lasts."""
    exact = clock_mhz * 1e6 / baud
    cycles = round(exact)
    if cycles < 4 or abs(cycles / exact - 1) > _BAUD_ERROR_LIMIT:
        raise BadInputError(
            f"baud must be {clock_mhz:g} MHz divided by a whole number of at least 4, within 2 %, but {baud} is not; "
            f"{DEFAULT_BAUD} and 115200 work at 60 MHz"
        )
    return cycles
