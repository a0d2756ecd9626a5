-- How many of the rows that are done became error records, while a job runs.

ALTER TABLE progress ADD COLUMN errors bigint; -- NULL: its engine does not count them
