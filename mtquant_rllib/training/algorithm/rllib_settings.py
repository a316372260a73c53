"""Which of RLlib's settings the desk's algorithms act on, and the refusal of every other when it is changed.

RLlib's configurations have some three hundred settings, and a learner or a runner of one's own reads as many of them as
it likes: the others are taken without a word and change nothing. Here each is either acted on (`READ`) or refused when
it is not what the desk set it to, with a sentence that names the place that is read instead. `refuse_unread` runs
whenever an algorithm is built; tests/training/test_rllib_settings.py walks the signatures of the installed RLlib, so
that a setting which a later version brings is in neither list until somebody has looked.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from mtquant_rllib.errors import ConfigError

BATCHED = "batched"


def _words(text: str) -> list[str]:
    return text.split()


READ = frozenset(
    _words("""
    gamma learner_class learner_config_dict
    env_runner_cls num_env_runners create_env_on_local_worker num_envs_per_env_runner num_cpus_per_env_runner
    num_gpus_per_env_runner custom_resources_per_env_runner validate_env_runners_after_construction
    max_requests_in_flight_per_env_runner explore
    num_learners num_cpus_per_learner num_gpus_per_learner custom_resources_per_learner local_gpu_idx
    evaluation_interval evaluation_duration evaluation_duration_unit evaluation_auto_duration_min_env_steps_per_sample
    evaluation_auto_duration_max_env_steps_per_sample evaluation_sample_timeout_s evaluation_parallel_to_training
    evaluation_unhealthy_workers_timeout_s evaluation_error_after_n_consecutive_skips
    evaluation_force_reset_envs_before_iteration evaluation_config evaluation_num_env_runners
    custom_evaluation_function
    policies policy_mapping_fn policies_to_train rl_module_spec algorithm_config_overrides_per_module
    env env_config disable_env_checking
    num_cpus_for_main_process custom_resources_for_main_process placement_strategy
    restart_failed_env_runners max_num_env_runner_restarts delay_between_env_runner_restarts_s
    env_runner_health_probe_timeout_s env_runner_restore_timeout_s
    log_level log_sys_usage seed metrics_num_episodes_for_smoothing custom_stats_cls_lookup
    callbacks_class on_algorithm_init on_train_result on_evaluate_start on_evaluate_end on_env_runners_recreated
    on_checkpoint_loaded on_environment_created on_episode_start on_episode_step on_episode_end on_sample_end
    framework enable_rl_module_and_learner enable_env_runner_and_connector_v2
    extra_python_environs_for_driver extra_python_environs_for_worker _validate_config _use_msgpack_checkpoints
    """)
)
"""Acted on by both algorithms and engines, in the desk's code or in what of RLlib's it runs in."""

READ_BY = {
    "ppo": frozenset(
        _words(
            """
            lr train_batch_size_per_learner num_epochs minibatch_size grad_clip lambda_ use_kl_loss kl_coeff kl_target
            vf_loss_coeff entropy_coeff clip_param vf_clip_param
            """
        )
    ),
    "sac": frozenset({"actor_lr", "critic_lr", "alpha_lr"}),
}

OWN = {
    "ppo": frozenset(
        _words("lr clip_param vf_clip_param vf_loss_coeff grad_clip entropy_coeff kl_coeff kl_target"),
    ),
    "sac": READ_BY["sac"],
}
"""What a module may have of its own, by `algorithm_config_overrides_per_module`."""

_OFFLINE = "the desk learns from what it samples; there is no offline data"
_OLD = "a setting of RLlib's old API stack, which nothing here reads"
_TORCH_COMPILE = "the settings' section `learner` (training(learner={'compile': ...}))"
_NETWORKS = "networks are named by `rl_module(rl_module_spec=...)`, which the settings' section `networks` makes"
_ITERATION = (
    "an iteration is train_batch_size_per_learner bars (PPO) or training(sac={'bars_per_iteration': ...}) (SAC)"
)
_RATES = "rates fall with bars: training(learning_rate_final_frac=...)"
_ASYNCHRONOUS = "the desk's algorithms are synchronous"

REFUSED: dict[str, str] = {
    "train_batch_size": "train_batch_size_per_learner, the bars of one update, whatever the number of learners",
    "optimizer": "the optimiser is Adam; its rates are `lr` (PPO) or `actor_lr`, `critic_lr` and `alpha_lr` (SAC)",
    "model": _NETWORKS,
    "model_config": _NETWORKS,
    "observation_space": "the environment's are used",
    "action_space": "the environment's are used",
    "normalize_actions": "actions are clipped to [-1, 1] and nothing else",
    "clip_actions": "actions are clipped to [-1, 1] and nothing else",
    "create_local_env_runner": "the desk's algorithms keep one",
    "rollout_fragment_length": "the bars of an update are shared evenly among the environments",
    "batch_mode": "the bars of an update are shared evenly among the environments",
    "sample_timeout_s": "a call is waited for until its runner is lost; then env_runner_restore_timeout_s counts",
    "merge_env_runner_states": "every runner's state travels with what it samples",
    "broadcast_env_runner_states": "every runner's state travels with what it samples",
    "use_env_runner_state_server": "every runner's state travels with what it samples",
    "env_runner_state_server_max_concurrency": "every runner's state travels with what it samples",
    "ignore_env_runner_failures": "a lost runner is started again where it stood: restart_failed_env_runners",
    "num_consecutive_env_runner_failures_tolerance": "max_num_env_runner_restarts",
    "restart_failed_sub_environments": "restart_failed_env_runners restarts the runner with all its environments",
    "count_steps_by": "everything is counted in bars",
    "num_aggregator_actors_per_learner": _ASYNCHRONOUS,
    "max_requests_in_flight_per_aggregator_actor": _ASYNCHRONOUS,
    "max_requests_in_flight_per_learner": _ASYNCHRONOUS,
    "min_time_s_per_iteration": _ITERATION,
    "min_train_timesteps_per_iteration": _ITERATION,
    "min_sample_timesteps_per_iteration": _ITERATION,
    "fake_sampler": "there is no such sampler here",
    "_torch_lr_scheduler_classes": _RATES,
    "torch_ddp_kwargs": "learners add up their gradients themselves",
    **dict.fromkeys(
        _words("""
        input_ offline_data_class input_read_method input_read_method_kwargs input_read_schema input_read_episodes
        input_read_sample_batches input_read_batch_size input_filesystem input_filesystem_kwargs input_compress_columns
        materialize_data materialize_mapped_data map_batches_kwargs iter_batches_kwargs ignore_final_observation
        prelearner_class prelearner_buffer_class prelearner_buffer_kwargs prelearner_module_synch_period
        prelearner_use_recorded_module_states dataset_num_iters_per_learner input_config actions_in_input_normalized
        postprocess_inputs shuffle_buffer_size output output_config output_compress_columns output_max_file_size
        output_max_rows_per_file output_write_remaining_data output_write_method output_write_method_kwargs
        output_filesystem output_filesystem_kwargs output_write_episodes offline_sampling offline_evaluation_interval
        num_offline_eval_runners offline_evaluation_type offline_eval_runner_class offline_loss_for_module_fn
        offline_eval_batch_size_per_runner dataset_num_iters_per_offline_eval_runner
        offline_eval_rl_module_inference_only num_cpus_per_offline_eval_runner num_gpus_per_offline_eval_runner
        custom_resources_per_offline_eval_runner offline_evaluation_timeout_s
        max_requests_in_flight_per_offline_eval_runner broadcast_offline_eval_runner_states
        validate_offline_eval_runners_after_construction restart_failed_offline_eval_runners
        ignore_offline_eval_runner_failures max_num_offline_eval_runner_restarts
        offline_eval_runner_health_probe_timeout_s offline_eval_runner_restore_timeout_s on_evaluate_offline_start
        on_evaluate_offline_end on_offline_eval_runners_recreated off_policy_estimation_methods
        ope_split_batch_by_episode
        """),
        _OFFLINE,
    ),
    **dict.fromkeys(
        _words("""
        use_worker_filter_stats update_worker_filter_stats exploration_config sample_collector remote_worker_envs
        remote_env_batch_wait_ms preprocessor_pref observation_filter enable_tf1_exec_eagerly
        sampler_perf_stats_ema_coef compress_observations policy_map_capacity policy_states_are_swappable
        observation_fn clip_rewards num_gpus _fake_gpus keep_per_episode_custom_metrics
        metrics_episode_collection_timeout_s eager_tracing eager_max_retraces tf_session_args local_tf_session_args
        export_native_model_files checkpoint_trainable_policies_only _tf_policy_handles_more_than_one_loss
        _disable_preprocessor_api _disable_action_flattening _disable_initialize_loss_from_dummy_batch is_atari
        """),
        _OLD,
    ),
}
"""Refused with both algorithms and engines; each with what is read instead, or why nothing is."""

_CONNECTORS = "the batched engine has columns in place of connectors; resources.engine=rllib runs RLlib's"

REFUSED_BY = {
    "ppo": {
        "lr_schedule": _RATES,
        "entropy_coeff_schedule": "entropy_coeff takes one: [[0, value], [bars, value], ...]",
    },
    "sac": {
        "lr": "actor_lr, critic_lr, alpha_lr",
        "twin_q": "there are always two critics",
        "q_model_config": "the settings' section sac.critic, from which modules are made",
        "policy_model_config": _NETWORKS,
        "tau": "training(sac={'tau': ...})",
        "initial_alpha": "training(sac={'initial_alpha': ...}), from which modules are made",
        "target_entropy": "it is -ln n, n the width of the agent's action",
        "n_step": "training(sac={'n_steps': ...})",
        "store_buffer_in_checkpoints": "the replay is always part of a checkpoint",
        "replay_buffer_config": "training(sac={'replay_bars': ..., 'priorities': ...})",
        "training_intensity": "training(sac={'bars_per_gradient_step': ...})",
        "optimization_config": "actor_lr, critic_lr, alpha_lr",
        "target_network_update_freq": "the targets follow with every step, by training(sac={'tau': ...})",
        "_deterministic_loss": "there is no such loss here",
        "_use_beta_distribution": "actions are Gaussian",
        "num_steps_sampled_before_learning_starts": "training(sac={'learning_starts_bars': ...})",
        "train_batch_size_per_learner": "training(sac={'batch_size': ..., 'bars_per_iteration': ...})",
        "num_epochs": "training(sac={'bars_per_gradient_step': ...})",
        "minibatch_size": "training(sac={'batch_size': ...})",
        "grad_clip": "training(sac={'grad_clip': ...})",
    },
}

REFUSED_BATCHED: dict[str, str] = {
    "use_critic": "there is always a value network",
    "use_gae": "advantages are always generalised ones; lambda_=1 makes them returns",
    "shuffle_batch_per_epoch": "every pass over the rows is shuffled",
    "grad_clip_by": "gradients are clipped by 'global_norm'",
    "learner_connector": _CONNECTORS,
    "add_default_connectors_to_learner_pipeline": _CONNECTORS,
    "env_to_module_connector": _CONNECTORS,
    "module_to_env_connector": _CONNECTORS,
    "add_default_connectors_to_env_to_module_pipeline": _CONNECTORS,
    "add_default_connectors_to_module_to_env_pipeline": _CONNECTORS,
    "episode_lookback_horizon": _CONNECTORS,
    "episodes_to_numpy": _CONNECTORS,
    "action_mask_key": "no action is masked",
    "gym_env_vectorize_mode": "environments are stepped as arrays",
    "render_env": "environments are stepped as arrays; nothing is drawn",
    "on_episode_created": "on_episode_start",
    "log_gradients": "the norm of every module's gradient is always reported",
    "torch_skip_nan_gradients": "a gradient that is not finite is always skipped",
    "_torch_grad_scaler_class": "training(learner=...)",
    "torch_compile_learner": _TORCH_COMPILE,
    "torch_compile_learner_what_to_compile": _TORCH_COMPILE,
    "torch_compile_learner_dynamo_mode": _TORCH_COMPILE,
    "torch_compile_learner_dynamo_backend": _TORCH_COMPILE,
    "torch_compile_worker": _TORCH_COMPILE,
    "torch_compile_worker_dynamo_backend": _TORCH_COMPILE,
    "torch_compile_worker_dynamo_mode": _TORCH_COMPILE,
}
"""Refused by the batched engine alone: RLlib's own acts on them."""

_ATTRIBUTES = {
    "dataset_num_iters_per_offline_eval_runner": "dataset_num_iters_per_eval_runner",
    "optimization_config": "optimization",
    "framework": "framework_str",
    "custom_stats_cls_lookup": "stats_cls_lookup",
}
_BY_RLLIB = {"worker_index", "class"}
"""Attributes that RLlib adds to a configuration later."""


def attribute(config: Any, name: str) -> str | None:
    """Where a configuration keeps the argument of this name; None where it does not."""
    candidates = (_ATTRIBUTES.get(name, name), f"_{name}", f"callbacks_{name}")
    return next((one for one in candidates if one in vars(config)), None)


def refused(algorithm: str, engine: str) -> dict[str, str]:
    """Argument -> what to say of it. algorithm: `ppo` or `sac`."""
    return {**REFUSED, **REFUSED_BY[algorithm], **(REFUSED_BATCHED if engine == BATCHED else {})}


def refuse_unread(config: Any, algorithm: str, engine: str) -> None:
    """Compare with a new configuration of the same class.

    Raises
    ------
    ConfigError
        When a setting was changed that nothing reads, or one is there that RLlib does not know either.
    """
    fresh = type(config)()
    for name, instead in refused(algorithm, engine).items():
        key = attribute(fresh, name)
        if key is not None and not _alike(getattr(config, key), getattr(fresh, key)):
            raise ConfigError(f"{name} = {getattr(config, key)!r}: not read here; {instead}")
    for key in vars(config).keys() - vars(fresh).keys() - _BY_RLLIB:
        near = difflib.get_close_matches(key, vars(fresh), n=1)
        raise ConfigError(f"{key}: no setting of {type(config).__name__}{f'; did you mean {near[0]}?' if near else ''}")
    may = OWN[algorithm] | ((READ_BY[algorithm] | set(REFUSED_BATCHED)) if engine != BATCHED else set())
    for module, overrides in config.algorithm_config_overrides_per_module.items():
        _check_own(module, overrides, config.policies, may)


def _check_own(module: str, overrides: Mapping[str, Any], modules: Collection[str], may: Collection[str]) -> None:
    where = f"algorithm_config_overrides_per_module[{module!r}]"
    if module not in modules:
        raise ConfigError(f"{where}: no such module; there are {', '.join(modules)}")
    for name in overrides:
        if name not in may:
            raise ConfigError(
                f"{where}[{name!r}]: a module has no such setting of its own; it may have {', '.join(sorted(may))}"
            )


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
