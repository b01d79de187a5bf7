"""Every private name of Flower that the transport relies on, against the pinned version.

If this fails after an upgrade, read what changed before touching fl_server or fl_client.
"""

import importlib
import inspect
import os
from dataclasses import fields
from importlib.metadata import version

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common import constant
from flwr.proto import fleet_pb2, message_pb2
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.serverapp import Grid
from flwr.supercore import constant as supercore_constant
from flwr.supercore import telemetry
from flwr.supercore.corestate.in_memory_corestate import ObjectPushSession
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.primitives import asymmetric
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import authenticate_node


def _parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_version_is_the_pinned_one():
    assert version("flwr") == "1.42.0"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("store_message_and_object_tree", ["self", "message", "object_tree", "session_id"]),
        ("store_object", ["self", "run_id", "session_id", "object_id", "object_content"]),
        ("get_object", ["self", "run_id", "object_id"]),
        ("store_message_ins", ["self", "message"]),
        ("get_message_ins", ["self", "node_id", "limit", "run_id"]),
        ("delete_messages", ["self", "message_ins_ids"]),
        ("activate_node", ["self", "node_id", "heartbeat_interval"]),
        ("deactivate_node", ["self", "node_id"]),
        ("acknowledge_node_heartbeat", ["self", "node_id", "heartbeat_interval"]),
        ("get_node_id_by_public_key", ["self", "public_key"]),
        ("get_nodes", ["self", "run_id"]),
        ("claim_task", ["self", "task_id"]),
        ("activate_task", ["self", "task_id"]),
        ("finish_task", ["self", "task_id", "sub_status", "details"]),
        ("num_message_res", ["self"]),
        ("_cleanup_push_session", ["self", "session_id", "cleanup_messages"]),
        ("_check_stored_messages", ["self", "message_ids", "run_id"]),
        ("_check_and_tag_offline_nodes", ["self", "node_ids"]),
    ],
)
def test_link_state_methods_have_their_signatures(name, parameters):
    assert _parameters(getattr(InMemoryLinkState, name)) == parameters


def test_link_state_creates_nodes_and_runs_as_called():
    assert _parameters(InMemoryLinkState.create_node) == [
        *("self", "owner_aid", "owner_name", "public_key", "heartbeat_interval"),
        *("location", "name"),
    ]
    assert {
        *("fab_id", "fab_version", "fab_hash", "override_config", "federation_id"),
        *("federation_config", "flwr_aid", "primary_task_type"),
    } <= set(_parameters(InMemoryLinkState.create_run))


def test_link_state_holds_its_parts():
    store = InMemoryObjectStore(verify=False)
    state = InMemoryLinkState(NoOpFederationManager(), store)

    assert state.object_store is store
    for name in (
        *("lock", "nodes", "node_public_key_to_node_id", "owner_to_node_ids", "message_ins_store"),
        *("message_res_store", "message_ins_id_to_message_res_id", "_object_push_sessions"),
        *("_object_push_session_by_root", "_lock_object_push_sessions", "task_token_store"),
        *("task_token_to_task_id", "federation_manager"),
    ):
        assert hasattr(state, name), name
    with state.lock, state.lock:
        pass
    with state._lock_object_push_sessions, state._lock_object_push_sessions:
        pass
    with store.lock_store, store.lock_store:
        pass
    assert {field.name for field in fields(ObjectPushSession)} == {
        *("run_id", "expires_at", "root_object_ids", "pending_object_ids"),
    }


def test_application_is_built_as_called():
    assert _parameters(create_app) == ["config", "superlink_lifespan_class"]
    assert {field.name for field in fields(SuperLinkLifespanConfig)} == {
        *("control_address", "health_server_address", "host", "port", "insecure", "certificates"),
        *("superexec_auth_secret", "authn_plugin", "event_log_plugin", "fleet_event_log_plugin"),
        *("enable_event_log", "artifact_provider", "enable_supernode_auth", "fleet_api_type"),
        *("fleet_api_address", "simulation", "ssl_ca_certfile", "ssl_certfile", "ssl_keyfile"),
        *("database", "isolation", "runtime_dependency_install"),
    }


def test_link_state_can_be_replaced():
    from fl_server.superlink.serve import LinkConfig, _create_app

    app, state = _create_app(LinkConfig(), supernode_auth=True)

    assert app.state.linkstate_factory.state() is state
    assert app.state.runtime_state_factory.state() is state
    assert app.state.linkstate_factory.objectstore_factory.store() is state.object_store
    assert state.federation_manager.linkstate is state
    assert app.state.enable_supernode_auth is True


def test_fleet_routes_carry_the_messages_we_send():
    assert {
        path.removeprefix("/v1/fleet/"): kind.DESCRIPTOR.name
        for (method, path), kind in PROTOBUF_REQUEST_TYPES.items()
        if path.startswith("/v1/fleet/") and method == "POST"
    } == {
        "register-node": "RegisterNodeFleetRequest",
        "activate-node": "ActivateNodeRequest",
        "deactivate-node": "DeactivateNodeRequest",
        "unregister-node": "UnregisterNodeFleetRequest",
        "send-node-heartbeat": "SendNodeHeartbeatRequest",
        "pull-messages": "PullMessagesRequest",
        "push-messages": "PushMessagesRequest",
        "get-run": "GetRunRequest",
        "get-fab": "GetFabRequest",
        "push-object": "PushObjectRequest",
        "pull-object": "PullObjectRequest",
        "confirm-message-received": "ConfirmMessageReceivedRequest",
    }


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (fleet_pb2.ActivateNodeRequest, {"public_key", "heartbeat_interval"}),
        (fleet_pb2.PullMessagesResponse, {"messages_list", "message_object_trees"}),
        (fleet_pb2.PushMessagesRequest, {"node", "messages_list", "message_object_trees"}),
        (fleet_pb2.PushMessagesResponse, {"objects_to_push", "session_id"}),
        (message_pb2.ObjectTree, {"object_id", "children"}),
        (message_pb2.PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (message_pb2.PushObjectResponse, {"stored"}),
    ],
)
def test_wire_messages_have_the_fields_we_use(message, names):
    assert names <= {field.name for field in message.DESCRIPTOR.fields}


def test_constants_are_as_assumed():
    assert constant.SUPERLINK_NODE_ID == 1
    assert constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2
    assert constant.ErrorCode.NODE_UNAVAILABLE == 5
    assert constant.TIMESTAMP_TOLERANCE >= 60, "a held request must not outlive its signature"
    assert constant.HEARTBEAT_MIN_INTERVAL <= 15 <= constant.HEARTBEAT_MAX_INTERVAL
    assert constant.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE <= 8 * 2**20
    assert constant.TIMESTAMP_HEADER
    assert supercore_constant.FLEET_HTTP_PUBLIC_KEY_HEADER
    assert supercore_constant.FLEET_HTTP_SIGNATURE_HEADER
    assert ApiErrorCode.FLEET_SUPERNODE_REGISTRATION_DISABLED == 2001
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == 2004
    assert ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE == 23
    assert FlowerError.from_json('{"code": 2001, "detail": "no"}').code == 2001
    assert FlowerError.from_json("{}") is None


def test_requests_are_signed_as_the_server_checks():
    source = inspect.getsource(authenticate_node)
    assert 'timestamp.encode("ascii")' in source
    private, public = asymmetric.generate_key_pairs()
    signature = asymmetric.sign_message(private, b"now")
    assert asymmetric.verify_signature(public, b"now", signature)
    assert asymmetric.public_key_to_bytes(public).startswith(b"-----BEGIN PUBLIC KEY-----")


@pytest.fixture
def identity():
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def test_message_needs_an_identity(identity):
    assert Message(RecordDict(), 7, "train").metadata.run_id == 2
    TaskIdentity._run_id = None
    with pytest.raises(RuntimeError, match="run_id"):
        Message(RecordDict(), 7, "train")


def test_objects_survive_deflating_and_inflating(identity):
    arrays = ArrayRecord({"w": Array(np.arange(4.0)), "v": Array(np.arange(4.0))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"a": 1})})
    message = Message(content, 7, "train")
    with inflatable_object.no_object_id_recompute():
        tree = inflatable_object.get_object_tree(message)
        objects = inflatable_object.get_all_nested_objects(message)
    contents = {object_id: value.deflate() for object_id, value in objects.items()}

    assert list(objects)[-1] == tree.object_id == message.object_id
    assert [t.object_id for t in inflatable_object.iterate_object_tree(tree)][-1] == tree.object_id
    for object_id, value in contents.items():
        inflatable_utils.validate_object_content(value)
        assert inflatable_object.get_object_id(value) == object_id
    again = inflatable_utils.inflate_object_from_contents(tree.object_id, contents)
    assert isinstance(again, Message)
    np.testing.assert_array_equal(again.content["arrays"]["v"].numpy(), np.arange(4.0))
    message.metadata.__dict__["_message_id"] = "x"
    assert message.metadata.message_id == "x"


def test_messages_are_made_from_parts(identity):
    message = Message(RecordDict({"config": ConfigRecord({"a": 1})}), 7, "query")

    assert len(remove_content_from_message(message).content) == 0
    failed = make_message(metadata=message.metadata, error=Error(5, "gone"))
    assert failed.has_error()
    assert not failed.has_content()
    assert failed.metadata is message.metadata


def test_client_app_is_called_with_message_and_context(identity):
    app = ClientApp()

    @app.query()
    def query(message, context):
        return Message(RecordDict(), reply_to=message)

    context = Context(run_id=2, node_id=7, node_config={"a": 1}, state=RecordDict(), run_config={})
    message = Message(RecordDict(), 7, "query")
    message.metadata.__dict__["_message_id"] = "abc"
    assert app(message, context).metadata.reply_to_message_id == "abc"


def test_grid_asks_for_what_we_implement():
    assert Grid.__abstractmethods__ == {
        *("set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages"),
        "send_and_receive",
    }


def test_stub_bundle_is_valid_and_reproducible():
    from fl_server.superlink.fab import build_stub

    first, app_id, app_version = build_stub("a.b:app")
    second, _, _ = build_stub("a.b:app")
    assert first.hash_str == second.hash_str
    assert (app_id, app_version) == ("fedleague/fedleague-stub", "1.0.0")


def test_nothing_talks_to_the_outside():
    for module in ("fl_client.link.node", "fl_server.superlink.serve"):
        importlib.import_module(module)

    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert hasattr(telemetry, "FLWR_TELEMETRY_ENABLED")
