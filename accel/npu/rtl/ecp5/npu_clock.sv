// The clock and the reset of an ECP5: a PLL from the board's oscillator, and a reset that holds until the PLL has locked and
// again whenever it loses its lock.
//
// Feedback is the PLL's own second output, inside the PLL, so that any ratio keeps the phase detector at the oscillator's
// frequency / INPUT_DIVIDER (the data sheet, FPGA-DS-02012, asks for 10 to 400 MHz there and 400 to 800 MHz inside):
// oscillator / INPUT_DIVIDER x FEEDBACK_DIVIDER = 400 to 800 MHz; that / OUTPUT_DIVIDER = clk. `clk_early` has the same
// frequency and comes a quarter of a cycle before clk: for an SDRAM, which then sees pins that settled half a cycle ago.
`default_nettype none
module npu_clock #(
  parameter int INPUT_DIVIDER = 1,
  parameter int FEEDBACK_DIVIDER = 24,
  parameter int OUTPUT_DIVIDER = 10
) (
  input  wire oscillator,
  output wire clk,
  output wire clk_early,
  output reg  rst = 1
);
  localparam int EIGHTHS = OUTPUT_DIVIDER * 6;  // three quarters of a cycle, in eighths of a cycle inside the PLL
  wire locked, feedback;
  (* ICP_CURRENT = "12" *) (* LPF_RESISTOR = "8" *) (* MFG_ENABLE_FILTEROPAMP = "1" *) (* MFG_GMCREF_SEL = "2" *)
  EHXPLLL #(
    .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"), .STDBY_ENABLE("DISABLED"), .DPHASE_SOURCE("DISABLED"),
    .OUTDIVIDER_MUXA("DIVA"), .OUTDIVIDER_MUXB("DIVB"), .OUTDIVIDER_MUXC("DIVC"), .OUTDIVIDER_MUXD("DIVD"),
    .CLKI_DIV(INPUT_DIVIDER), .CLKFB_DIV(1), .FEEDBK_PATH("INT_OS"),
    .CLKOP_ENABLE("ENABLED"), .CLKOP_DIV(OUTPUT_DIVIDER), .CLKOP_CPHASE(OUTPUT_DIVIDER - 1), .CLKOP_FPHASE(0),
    .CLKOS_ENABLE("ENABLED"), .CLKOS_DIV(FEEDBACK_DIVIDER), .CLKOS_CPHASE(FEEDBACK_DIVIDER - 1), .CLKOS_FPHASE(0),
    .CLKOS2_ENABLE("ENABLED"), .CLKOS2_DIV(OUTPUT_DIVIDER),
    .CLKOS2_CPHASE(OUTPUT_DIVIDER - 1 + EIGHTHS / 8), .CLKOS2_FPHASE(EIGHTHS % 8)
  ) pll (
    .CLKI(oscillator), .CLKFB(feedback), .CLKINTFB(feedback), .CLKOP(clk), .CLKOS2(clk_early), .LOCK(locked),
    .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0), .PHASESEL1(1'b0), .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1),
    .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0), .ENCLKOS(1'b0), .ENCLKOS2(1'b0), .ENCLKOS3(1'b0));

  reg [1:0] settled = 0;    // the lock comes from no clock at all
  reg [7:0] waited = 0;
  always_ff @(posedge clk) begin
    settled <= {settled[0], locked};
    waited <= !settled[1] ? 0 : waited == 8'hFF ? waited : waited + 1;
    rst <= waited != 8'hFF;
  end
endmodule
`default_nettype wire
