"""The batch lane: each call is bought once, through a provider's batch job, killed or not.

``plan`` groups calls, ``submit`` notes and creates jobs, ``recover`` finds what was bought before,
``poll`` watches, ``outcomes`` says what the end of a job means, ``tidy`` removes old files, and
``batcher`` ties them together.
"""
