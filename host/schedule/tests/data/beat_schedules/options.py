# Everything that an entry may have: options of the call, keyword arguments, nested values.
from datetime import timedelta
from celery.schedules import crontab

app.conf.beat_schedule = {
    "billing:monthly": {
        "task": "billing.close_month",
        "schedule": crontab(0, 6, day_of_month="1", month_of_year="1,4,7,10"),
        "kwargs": {"tenant": "acme", "dry_run": False, "limits": {"rows": 1000, "depth": [1, 2, (3, 4)]}},
        "options": {
            "queue": "billing", "priority": 7, "expires": timedelta(hours=2), "countdown": 5, "ignore_result": True,
            "headers": {"source": "beat"}, "retry_policy": {"max_retries": 3, "interval_start": 0.2},
        },
        "relative": True,
    },
}
