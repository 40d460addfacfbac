"""From sorted lines to a Measurement: noise, readout, coil compression, sensitivity maps."""
