"""The life of a TrainingJob: gang, environment contract, restart by attempt, resume from checkpoints.

Owns TrainingJobs' status and the pods, Service and PodGroup of each job. Does not place pods (scheduler/) or
know where bytes are (metadata/). The flow: observe → reconcile → write the status → act."""
