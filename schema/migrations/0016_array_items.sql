-- An array's task gets its row only where it can start: an item whose node has another boot by now, or takes no jobs, is
-- left out before, instead of leaving behind a task that nobody knows until the next reconcile.
CREATE OR REPLACE FUNCTION mull__array_items(p_term bigint, p_items jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    out jsonb;
BEGIN
    PERFORM mull__check_term(p_term);
    WITH given AS (SELECT x, ord, (x->>'job')::bigint AS job, COALESCE((x->>'array')::boolean, false) AS is_array
                     FROM jsonb_array_elements(p_items) WITH ORDINALITY AS t(x, ord)),
    item AS (SELECT g.*, row_number() OVER (PARTITION BY job ORDER BY ord) AS nth
               FROM given g
              WHERE NOT is_array
                 OR NOT EXISTS (SELECT 1 FROM jsonb_array_elements(COALESCE(x->'parts', jsonb_build_array(x))) p
                                 WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.name = p->>'node' AND n.boot = p->>'boot'
                                                      AND n.state = 'UP'))),
    wanted AS MATERIALIZED (SELECT job, count(*)::int AS n FROM item WHERE is_array GROUP BY job ORDER BY job),
    made AS MATERIALIZED (SELECT w.job, t.id, t.nth FROM wanted w,
                          LATERAL mull__array_make(w.job, w.n) WITH ORDINALITY AS t(id, nth))
    SELECT jsonb_agg(CASE WHEN i.is_array THEN i.x || jsonb_build_object('job', m.id) ELSE i.x END ORDER BY i.ord) INTO out
      FROM item i LEFT JOIN made m ON i.is_array AND m.job = i.job AND m.nth = i.nth
     WHERE NOT i.is_array OR m.id IS NOT NULL;
    RETURN COALESCE(out, '[]');
END $$;
