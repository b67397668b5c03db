"""Outcomes and measured figures in, verdicts out: report.json, report.md, report.html, plots and clips.

    from s2robot.pipeline.report.outcomes import Outcome, aggregate, read_outcomes, write_outcomes
    from s2robot.pipeline.report.records import ArmRecord, CurvePoint, RunRecord, build_report
    from s2robot.pipeline.report.tables import print_report
    from s2robot.pipeline.report.videos import contact_sheet, side_by_side, spread, write_mp4
    from s2robot.pipeline.report.write import write_report

Nothing is imported here: a rollout worker that records outcomes needs neither matplotlib nor SciPy.
"""
