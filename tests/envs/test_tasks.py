"""Every task of the catalogue keeps Gymnasium's contract, is a function of its seed, and scores what it claims."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.stats import chisquare

from s2robot.configs import choice, names
from s2robot.envs import make_task
from s2robot.envs.control import ArmTorques
from s2robot.envs.expert import CLOSING, LIFTING, ExpertConfig, GraspExpert
from s2robot.envs.pick_cube import PickCube
from s2robot.envs.task import PixelObservation, TabletopTask
from s2robot.errors import S2RobotError

TASKS = names("task")
Build = Callable[[str], TabletopTask]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("wrap", [lambda env: env, PixelObservation], ids=["state", "pixels"])
def test_every_task_passes_the_gymnasium_checker(task: Build, name: str, wrap: Callable) -> None:  # type: ignore[type-arg]
    check_env(wrap(task(name)), skip_render_check=True)


@pytest.mark.parametrize("name", TASKS)
def test_an_episode_is_a_function_of_its_seed_whatever_came_before(task: Build, name: str) -> None:
    env, rng = task(name), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 7))

    def play() -> tuple[str, bytes, bytes]:
        _, info = env.reset(seed=123)
        for action in actions:
            env.step(action)
        return info["initial_state_sha256"], env.sim_state().tobytes(), env.frames(["agentview"])["agentview"].tobytes()

    first = play()
    env.reset(seed=5)
    for _ in range(7):  # another history: the gripper closed, the arm elsewhere
        env.step(np.array([1, -1, -1, 0.5, 0, 0.2, 1.0]))
    assert play() == first
    env.reset(seed=124)
    assert env.state_sha256() != first[0]


@pytest.mark.parametrize("name", TASKS)
def test_the_state_is_the_one_that_robosuite_makes_of_the_same_actions_to_the_bit(task: Build, name: str) -> None:
    env = task(name)
    env.reset(seed=3)
    expert, actions = GraspExpert(env, ExpertConfig(miss=0.0), np.random.default_rng(3)), []
    while not env.end:
        actions.append(expert.act()[1])
        env.step(actions[-1])
    assert env.end == "success"  # so the fingers have closed on something

    def play(move: Callable[[np.ndarray], object]) -> list[bytes]:
        env.reset(seed=3)
        states = []
        for action in actions:
            move(action.astype(np.float32))
            states.append(env.sim_state().tobytes())
        return states

    assert play(env.world.advance) == play(env.world.step)


def test_another_controller_than_is_repeated_is_refused(task: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    env = task("lift")
    arguments = env.robot, env.model, env.data
    ArmTorques(*arguments)
    for name, value in {"impedance_mode": "variable", "uncoupling": False, "input_ref_frame": "world"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(env.robot.part_controllers["right"], name, value)
            with pytest.raises(S2RobotError, match=r"OSC_POSE of .* is set up otherwise"):
                ArmTorques(*arguments)


@pytest.mark.parametrize("name", TASKS)
def test_a_grasp_is_where_the_gripper_closed_nearest_to_an_object(task: Build, name: str) -> None:
    env = task(name)
    env.reset(seed=3)
    still = np.zeros(6)
    assert env.grasp is None
    env.step(np.append(still, -1.0))
    env.step(np.append(still, 0.1))  # within the dead band: nothing is told
    assert env.grasp is None
    here, goals = env.eef_pos_w(), env.goal_positions_w()
    env.step(np.append(still, 1.0))
    first = env.grasp
    assert first is not None
    assert first.named_m == pytest.approx(np.linalg.norm(here - env.target_pos_w()), abs=3e-3)
    distances = sorted(np.linalg.norm(here - goals, axis=1))
    others = [d for d in distances if abs(d - first.named_m) > 3e-3]
    assert first.other_m == (pytest.approx(others[0], abs=3e-3) if others else None)
    for move in (1.0, 1.0, 1.0):
        env.step(np.array([0, 0, -move, 0, 0, 0, 1.0]))
    assert env.grasp is first, "it has been closing all the time"
    env.step(np.append(still, -1.0))
    env.step(np.append(still, 1.0))
    nearest = env.grasp
    assert nearest.named_m < first.named_m
    for move in (1.0, 1.0, 1.0):
        env.step(np.array([0, 0, move, 0, 0, 0, -1.0]))
    env.step(np.append(still, 1.0))
    assert env.grasp is nearest, "closing in the air after a miss says nothing about the miss"
    env.reset(seed=3)
    assert env.grasp is None


@pytest.mark.parametrize("name", TASKS)
def test_the_expert_succeeds_and_the_episode_says_so(task: Build, name: str) -> None:
    assert expert_successes(task(name), range(5)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_expert_succeeds_on_95_of_100_seeds(task: Build, name: str) -> None:
    assert expert_successes(task(name), range(100)) >= 95


@pytest.mark.parametrize("name", TASKS)
def test_a_miss_is_carried_out_while_the_label_says_what_to_do_about_it(task: Build, name: str) -> None:
    env = task(name)
    env.reset(seed=3)
    expert = GraspExpert(env, ExpertConfig(noise=0.0, miss=1.0), np.random.default_rng(0))
    rest, missed, empty = env.target_pos_w(), 0, 0
    while env.end is None:
        label, executed = expert.act()
        if label[-1] < 0 < executed[-1]:
            missed += 1
            np.testing.assert_allclose(env.target_pos_w()[:2], rest[:2], atol=1e-3, err_msg="a miss touches nothing")
        else:
            np.testing.assert_array_equal(label, executed)
        empty += env.finger_opening_m() < 0.01
        if env.finger_opening_m() < 0.01:
            assert label[-1] < 0, "closed fingers with nothing between are to open"
        env.step(executed)
    assert (missed, env.end) == (CLOSING + LIFTING, "success")
    assert empty >= 3


def test_no_miss_where_none_is_wanted(task: Build) -> None:
    env = task("pick_cube")
    env.reset(seed=3)
    expert = GraspExpert(env, ExpertConfig(noise=0.0, miss=0.0), np.random.default_rng(0))
    while env.end is None:
        label, executed = expert.act()
        np.testing.assert_array_equal(label, executed)
        env.step(executed)


def expert_successes(env: TabletopTask, seeds: range) -> int:
    """Episodes of the noisy expert that end in success."""
    successes = 0
    for seed in seeds:
        env.reset(seed=seed)
        expert = GraspExpert(env, ExpertConfig(), np.random.default_rng(seed))
        while env.end is None:
            _, _, terminated, truncated, info = env.step(expert.act()[1])
        assert info["end"] == env.end
        assert (terminated, truncated) == (env.end == "success", env.end == "horizon")
        successes += env.end == "success"
    return successes


def test_doing_nothing_ends_at_the_horizon(task: Build) -> None:
    env = task("lift")
    env.reset(seed=0)
    result = env.step_chunk(np.zeros((500, 7), np.float32))
    assert (result.executed, result.end, result.success) == (env.horizon, "horizon", False)


def test_a_chunk_stops_at_success(task: Build) -> None:
    env = task("lift")
    env.reset(seed=0)
    lift(env, env.model.joint("cube_joint0").qposadr[0], 0.3)
    result = env.step_chunk(np.zeros((8, 7), np.float32))
    assert (result.executed, result.end) == (1, "success")


def test_lifting_the_named_cube_alone_is_success_and_any_other_spoils_it(task: Build) -> None:
    env = task("pick_cube")
    assert isinstance(env, PickCube)
    env.reset(seed=3)
    assert not env.is_success()
    others = [i for i in range(env.num_cubes) if i != env.target]
    lift(env, env._addresses[others[0]], 0.2)
    assert not env.is_success()
    lift(env, env._addresses[env.target], 0.2)
    assert not env.is_success()
    env.reset(seed=3)
    lift(env, env._addresses[env.target], 0.2)
    assert env.is_success()


def lift(env: TabletopTask, address: int, by_m: float) -> None:
    """Move a free body up."""
    env.data.qpos[address + 2] += by_m
    mujoco.mj_forward(env.model, env.data)


def test_goals_colours_and_places_are_uniform_over_1000_resets(task: Build) -> None:
    env = task("pick_cube")
    assert isinstance(env, PickCube)
    goals, target_indexes, places, colours, all_places = [], [], [], [], []
    for seed in range(1000):
        env.reset(seed=seed)
        goals.append(int(env.goal.argmax()))
        target_indexes.append(env.target)
        places.append(env.target_pos_w()[:2])
        colours.append([colour_of(env, i) for i in range(env.num_cubes)])
        all_places.append(env.cube_pos_w()[:, :2])
    for drawn in (goals, target_indexes):  # the goal's colour, and which body wears it
        assert chisquare(np.bincount(drawn, minlength=4)).pvalue > 1e-3
    table = np.histogram2d(*np.array(places).T, bins=(2, 3), range=[[-0.12, 0.12], [-0.15, 0.15]])[0]
    assert table.sum() == 1000
    assert chisquare(table[0]).pvalue > 1e-3  # left to right; keeping apart pushes cubes outwards, alike on both sides
    assert chisquare(table.sum(1)).pvalue > 1e-3
    orders = {order: 0 for order in itertools.permutations(range(4))}
    for order in colours:
        orders[tuple(order)] += 1
    assert chisquare(list(orders.values())).pvalue > 1e-3  # every way to colour the four bodies
    for body in range(4):  # and each body stands on either side as often
        left = sum(places[body][1] < 0 for places in all_places)
        assert chisquare([left, 1000 - left]).pvalue > 1e-3
    joint = np.histogram2d(goals, target_indexes, bins=(4, 4))[0]
    assert chisquare(joint.ravel()).pvalue > 1e-3


def colour_of(env: PickCube, body: int) -> int:
    """Index into the palette of what a cube shows."""
    from s2robot.envs.pick_cube import PALETTE

    shown = env.model.geom_rgba[env._visuals[body], :3]
    return int(np.argmin([np.abs(shown - PALETTE[colour]).sum() for colour in env.colours]))


def test_the_named_cube_wears_the_colour_that_the_goal_names(task: Build) -> None:
    from s2robot.envs.pick_cube import PALETTE

    env = task("pick_cube")
    assert isinstance(env, PickCube)
    for seed in range(20):
        env.reset(seed=seed)
        named = PALETTE[env.colours[int(env.goal.argmax())]]
        np.testing.assert_allclose(env.model.geom_rgba[env._visuals[env.target], :3], named, atol=1e-6)


def test_pixels_are_counted_for_each_goal_s_own_object(task: Build) -> None:
    env = task("pick_cube")
    env.reset(seed=12)
    before = env.goal_pixels("agentview")
    assert (before > 8).all()
    hidden = 2
    address = env.model.joint(env.model.body(env.goal_bodies()[hidden]).jntadr[0]).qposadr[0]
    env.data.qpos[address + 2] = -5.0  # far below the table
    mujoco.mj_forward(env.model, env.data)
    after = env.goal_pixels("agentview")
    assert after[hidden] == 0
    assert (np.delete(after, hidden) >= np.delete(before, hidden)).all()


def test_the_clutter_is_tight_and_never_tighter_than_stated(task: Build) -> None:
    env = task("pick_cube_clutter")
    assert isinstance(env, PickCube)
    gaps_m = []
    for seed in range(60):
        env.reset(seed=seed)
        gaps_m.append(env.smallest_gap_m())
    assert min(gaps_m) >= 0.008
    assert np.median(gaps_m) < 0.014
    assert env.num_cubes == 6


def test_a_1_5_cm_cube_is_about_two_pixels_wide_for_the_base_encoder() -> None:
    env = make_task({**choice("task", "pick_cube_small"), "frame_px": 112})
    assert isinstance(env, PickCube)
    env.reset(seed=0)
    with_cubes = env.frames(["agentview"])["agentview"].astype(int)
    env.model.geom_rgba[env._visuals, 3] = 0.0
    without = env.frames(["agentview"])["agentview"].astype(int)
    pixels = (np.abs(with_cubes - without).sum(-1) > 60).sum() / env.num_cubes
    assert 1.5 <= np.sqrt(pixels) <= 4.5
    env.close()


def test_holding_the_gripper_is_a_band_and_not_a_point(task: Build) -> None:
    env = task("lift")
    env.reset(seed=0)
    env.step_chunk(np.tile([0, 0, 0, 0, 0, 0, -1.0], (10, 1)).astype(np.float32))
    opened_m = env.finger_opening_m()
    env.step_chunk(np.tile([0, 0, 0, 0, 0, 0, 0.15], (10, 1)).astype(np.float32))
    assert abs(env.finger_opening_m() - opened_m) < 0.003


@pytest.mark.parametrize(
    ("action", "message"),
    [(np.zeros(6), "need 7 finite numbers"), (np.full(7, np.nan), "need 7 finite numbers")],
)
def test_a_bad_action_is_refused(task: Build, action: np.ndarray, message: str) -> None:
    env = task("lift")
    env.reset(seed=0)
    with pytest.raises(S2RobotError, match=message):
        env.step(action)


def test_an_unknown_camera_is_refused_with_the_nearest_name(task: Build) -> None:
    env = task("lift")
    env.reset(seed=0)
    with pytest.raises(S2RobotError, match=r"unknown camera 'agentvew'.*did you mean 'agentview'"):
        env.frames(["agentvew"])
    with pytest.raises(S2RobotError, match="unknown camera 'side'"):
        make_task({**choice("task", "lift"), "cameras": ["side"]})


def test_frames_are_upright_and_differ_between_cameras(task: Build) -> None:
    env = task("lift")
    env.reset(seed=0)
    frames = env.frames(["agentview", "robot0_eye_in_hand"])
    assert not np.array_equal(frames["agentview"], frames["robot0_eye_in_hand"])
    table_rows = frames["agentview"].mean((1, 2))
    assert table_rows[-8:].mean() > table_rows[:8].mean()  # the white table lies below the robot


def test_cubes_that_cannot_be_placed_are_refused() -> None:
    env = make_task({**choice("task", "pick_cube_clutter"), "frame_px": 32, "gap_m": 0.02, "cluster_m": 0.03})
    with pytest.raises(S2RobotError, match=r"do not fit 0\.02 m apart"):
        env.reset(seed=0)
