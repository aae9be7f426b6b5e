# What an import cannot take over and has to list: values that only a running Python knows.
import os
from datetime import timedelta
from celery.schedules import crontab

HOUR = 7
SYNC_ENABLED = os.environ.get("SYNC", "1") == "1"
CELERY_BEAT_SCHEDULE = {
    "constant": {"task": "x.constant", "schedule": crontab(hour=HOUR, minute=0)},
    "environment": {"task": "x.environment", "schedule": float(os.environ.get("EVERY", "60"))},
    f"formatted-{HOUR}": {"task": "x.formatted", "schedule": 60},
    "attribute": {"task": sync.name, "schedule": timedelta(minutes=5)},
    "impossible": {"task": "x.impossible", "schedule": crontab(0, 0, day_of_month=31, month_of_year=4)},
    "misspelt": {"task": "x.misspelt", "schedule": crontab(hour_of_day=3)},
    "too-often": {"task": "x.too_often", "schedule": timedelta(milliseconds=100)},
    **({"sync": {"task": "x.sync", "schedule": 300}} if SYNC_ENABLED else {}),
}
