-- Jobs of kind serve: a model behind HTTP until it is stopped.
ALTER TABLE job DROP CONSTRAINT job_kind_check;
ALTER TABLE job ADD CONSTRAINT job_kind_check
    CHECK (kind IN ('train', 'rollout', 'eval', 'annotate', 'generate', 'serve'));
