"""The curriculum: phases, their trials under Tune, and how a run is started and resumed."""
