"""What training costs on this machine, measured: steps, layers, memory, processes; and what updates can hold."""
