# Intervals as people write them: whole numbers, products, timedelta of several units, schedule().
from datetime import timedelta
from celery.schedules import schedule

CELERY_BEAT_SCHEDULE = {
    "heartbeat": {"task": "ops.heartbeat", "schedule": 5},
    "ten-minutes": {"task": "ops.check", "schedule": 600.0},
    "five-minutes": {"task": "ops.poll", "schedule": 60 * 5},
    "half-day": {"task": "ops.rotate", "schedule": timedelta(hours=11, minutes=59, seconds=60)},
    "two-weeks": {"task": "ops.report", "schedule": timedelta(weeks=2)},
    "aligned": {"task": "ops.align", "schedule": schedule(timedelta(hours=1), relative=True)},
    "named": {"task": "ops.named", "schedule": schedule(run_every=timedelta(days=1))},
    "underscores": {"task": "ops.slow", "schedule": 1_800.0},
    "fraction": {"task": "ops.fast", "schedule": 0.5},
}
