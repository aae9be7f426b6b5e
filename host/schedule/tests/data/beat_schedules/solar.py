# Solar events: positional and named coordinates, south and west negative.
from celery.schedules import solar

beat_schedule = {
    "lights-off": {"task": "house.lights", "schedule": solar("sunrise", -37.81753, 144.96715), "args": ("off",)},
    "lights-on": {"task": "house.lights", "schedule": solar("sunset", lat=40.7128, lon=-74.0060), "args": ("on",)},
    "telescope": {
        "task": "sky.observe",
        "schedule": solar("dusk_astronomical", 28, -16),
        "kwargs": {"filters": ["R", "V"], "exposure": 1.5e1, "guide": True, "dome": None},
    },
    "noon": {"task": "sky.calibrate", "schedule": solar("solar_noon", 0, 0)},
}
