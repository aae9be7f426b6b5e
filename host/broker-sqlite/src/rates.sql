-- Version 4: what a rate was used by, so that one with another rate or burst reckons with it.

-- Interval of whoever used it last, microseconds (0: not known), and its burst.
ALTER TABLE rate ADD COLUMN interval_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rate ADD COLUMN burst INTEGER NOT NULL DEFAULT 0;
