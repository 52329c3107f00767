"""navnode in 3D Slicer: tools, X-rays at their detector, plans and deviation, each only while it may be trusted."""

from __future__ import annotations

import time

import numpy as np
import qt
import slicer
import vtk
import vtk.util.numpy_support as numpy_support
from NavnodeConsoleLib.client import Client
from NavnodeConsoleLib.console import Console, Deviation, State
from NavnodeConsoleLib.wire import Image, PolyData, Trajectory
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

_POLL_MS = 20
_COLOURS = {"VALID": "#1a8f5a", "DEGRADED": "#d98e04", "INVALID": "#b3261e"}
_SHAPES = {"VALID": "\u25cf", "DEGRADED": "\u25b2", "INVALID": "\u2715"}
"""Colours alone are not told apart by everyone."""
_XRAY_VIEW = "Red"


class NavnodeConsole(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "navnode Console"
        parent.categories = ["IGT"]
        parent.dependencies = []
        parent.contributors = ["navnode"]
        parent.helpText = "Connects to a navnode navigation node (OpenIGTLink, port 18944). Research use only."
        parent.acknowledgementText = ""


class MrmlScene:
    """The scene of NavnodeConsoleLib.console, in MRML."""

    def __init__(self, on_deviation, on_state) -> None:
        self._on_deviation, self._on_state = on_deviation, on_state
        self._nodes: dict[str, str] = {}
        """Name -> id of the node that this module made."""

    def _node(self, kind: str, name: str):
        node = slicer.mrmlScene.GetNodeByID(self._nodes.get(name, ""))
        if node is None or not node.IsA(kind):
            node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
            node.SetSaveWithScene(False)  # a pose of yesterday must not come back with the scene
            self._nodes[name] = node.GetID()
        return node

    def transform(self, name: str, matrix: np.ndarray | None) -> None:
        node = self._node("vtkMRMLLinearTransformNode", name)
        if matrix is not None:
            node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        status = "INVALID" if matrix is None else "OK"
        if node.GetAttribute("Navnode.Status") != status:
            node.SetAttribute("Navnode.Status", status)
            self._show_children(node, matrix is not None)

    def _show_children(self, transform, shown: bool) -> None:
        """Whatever a user hung below a transform is not seen while its pose is unknown."""
        for number in range(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode")):
            node = slicer.mrmlScene.GetNthNodeByClass(number, "vtkMRMLDisplayableNode")
            hidden = node.GetAttribute("Navnode.Hidden") == "1"
            if node.GetParentTransformNode() is not transform or shown is not hidden:
                continue
            if not shown and not node.GetDisplayVisibility():
                continue  # the user hid it
            node.SetAttribute("Navnode.Hidden", None if shown else "1")
            node.SetDisplayVisibility(1 if shown else 0)

    def model(self, name: str, surface: PolyData | None) -> None:
        if surface is None and name not in self._nodes:
            return
        node = self._node("vtkMRMLModelNode", name)
        if surface is not None:
            node.SetAndObservePolyData(_vtk_surface(surface))
            if node.GetDisplayNode() is None:
                node.CreateDefaultDisplayNodes()
                node.GetDisplayNode().SetLineWidth(3)
                node.GetDisplayNode().SetVisibility2D(True)
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(surface is not None)

    def picture(self, name: str, image: Image) -> None:
        node = self._node("vtkMRMLScalarVolumeNode", name)
        first = node.GetImageData() is None
        slicer.util.updateVolumeFromArray(node, image.voxels)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(image.ras_from_index))
        if first:
            node.CreateDefaultDisplayNodes()
            slicer.util.setSliceViewerLayers(background=node)

    def place_picture(self, name: str, volume_from_slice: np.ndarray | None) -> None:
        widget = slicer.app.layoutManager().sliceWidget(_XRAY_VIEW)
        if widget is None or name not in self._nodes:
            return
        slice_node = widget.mrmlSliceNode()
        slice_node.SetSliceVisible(volume_from_slice is not None)
        picture = self._node("vtkMRMLScalarVolumeNode", name)
        carm = slicer.mrmlScene.GetNodeByID(self._nodes.get("CArmToVolume", ""))
        # Without a pose it is seen in the carm frame, in its own view alone.
        picture.SetAndObserveTransformNodeID(carm.GetID() if carm and volume_from_slice is not None else None)
        if volume_from_slice is not None:
            slice_node.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(volume_from_slice))
            slice_node.UpdateMatrices()

    def volume(self, name: str, image: Image) -> None:
        node = self._node("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, image.voxels)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(image.ras_from_index))
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()

    def plans(self, plans: list[Trajectory]) -> None:
        wanted = {f"Plan {plan.name}" for plan in plans}
        for name in [name for name in self._nodes if name.startswith("Plan ") and name not in wanted]:
            node = slicer.mrmlScene.GetNodeByID(self._nodes.pop(name))
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        for plan in plans:
            node = self._node("vtkMRMLMarkupsLineNode", f"Plan {plan.name}")
            node.RemoveAllControlPoints()
            for point_mm, label in ((plan.entry_mm, "entry"), (plan.target_mm, "target")):
                node.AddControlPoint(vtk.vtkVector3d(*point_mm), label)
            node.SetLocked(True)
            red, green, blue, _ = plan.rgba
            node.GetDisplayNode().SetSelectedColor(red / 255, green / 255, blue / 255)

    def deviation(self, deviation: Deviation | None) -> None:
        self._on_deviation(deviation)

    def state(self, state: State) -> None:
        self._on_state(state)


def _vtk_surface(surface: PolyData):
    poly = vtk.vtkPolyData()
    points = vtk.vtkPoints()
    points.SetData(numpy_support.numpy_to_vtk(surface.points_mm, deep=True))
    poly.SetPoints(points)
    for flat, put in ((surface.lines, poly.SetLines), (surface.polygons, poly.SetPolys)):
        cells = vtk.vtkCellArray()
        cells.ImportLegacyFormat(numpy_support.numpy_to_vtkIdTypeArray(flat, deep=True))
        put(cells)
    return poly


class NavnodeConsoleLogic(ScriptedLoadableModuleLogic):
    """The connection, and what comes of it."""

    def __init__(self, on_deviation=lambda deviation: None, on_state=lambda state: None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._console = Console(MrmlScene(on_deviation, on_state))
        self._client: Client | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.connect("timeout()", self.poll)

    def connect(self, host: str, port: int) -> None:
        self.disconnect()
        self._client = Client(host, port)
        self._timer.start()

    def disconnect(self) -> None:
        self._timer.stop()
        if self._client is not None:
            self._client.close()
            self._client = None
            self._console.silent("not connected")

    def poll(self) -> None:
        if self._client is None:
            return
        messages = self._client.poll()
        if self._client.connected:
            self._console.hear(messages, time.monotonic())
        else:
            self._console.silent(self._client.trouble or "connecting")

    def command(self, name: str, reply, parameters: dict[str, str] | None = None) -> None:
        if self._client is None:
            reply(False, "not connected")
        else:
            self._client.command(name, parameters or {}, reply)


class NavnodeConsoleWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        self._host = qt.QLineEdit("127.0.0.1")
        self._port = qt.QSpinBox()
        self._port.setRange(1, 65535)
        self._port.setValue(18944)
        self._connect = qt.QPushButton("Connect")
        self._connect.setCheckable(True)
        self._connect.connect("toggled(bool)", self._on_connect)
        self._state, self._numbers, self._answer = qt.QLabel(), qt.QLabel("\u2013"), qt.QLabel()
        for label in (self._state, self._numbers, self._answer):
            label.setTextFormat(qt.Qt.PlainText)  # names come from the network
            label.setWordWrap(True)
        self._numbers.setStyleSheet("font-size: 20px")
        form = qt.QFormLayout()
        form.addRow("Host", self._host)
        form.addRow("Port", self._port)
        form.addRow(self._connect)
        form.addRow("State", self._state)
        form.addRow("Deviation", self._numbers)
        for text, name in (
            ("Accept registration", "RegistrationAccept"),
            ("Reject registration", "RegistrationReject"),
        ):
            button = qt.QPushButton(text)
            button.connect("clicked()", lambda name=name: self.logic.command(name, self._on_answer))
            form.addRow(button)
        form.addRow("Answer", self._answer)
        self.layout.addLayout(form)
        self.layout.addStretch(1)
        self.logic = NavnodeConsoleLogic(self._on_deviation, self._on_state)

    def cleanup(self) -> None:
        self.logic.disconnect()
        self._border("")

    def _on_connect(self, wanted: bool) -> None:
        self._connect.setText("Disconnect" if wanted else "Connect")
        if wanted:
            self.logic.connect(self._host.text.strip(), self._port.value)
        else:
            self.logic.disconnect()
            self._border("")

    def _on_answer(self, done: bool, text: str) -> None:
        self._answer.setText(text if done else f"refused: {text}")

    def _on_state(self, state: State) -> None:
        replay = "REPLAY  " if state.replay else ""
        self._state.setText(f"{_SHAPES[state.status]} {replay}{state.text or state.status}")
        self._state.setStyleSheet(f"font-size: 20px; color: {_COLOURS[state.status]}")
        self._border(f"border: 6px solid {_COLOURS[state.status]}")

    def _border(self, style: str) -> None:
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        for number in range(manager.threeDViewCount):
            widget = manager.threeDWidget(number)
            widget.setObjectName(f"NavnodeView{number}")
            widget.setStyleSheet(f"#NavnodeView{number} {{ {style} }}" if style else "")

    def _on_deviation(self, deviation: Deviation | None) -> None:
        if deviation is None:
            self._numbers.setText("\u2013")
            return
        self._numbers.setText(
            f"{deviation.tool} to {deviation.plan}{' (DEGRADED)' if deviation.degraded else ''}\n"
            f"{deviation.lateral_mm[0]:.1f} \u00b1 {deviation.lateral_mm[1]:.1f} mm beside\n"
            f"{deviation.angle_deg[0]:.1f} \u00b1 {deviation.angle_deg[1]:.1f}\u00b0\n"
            f"{deviation.depth_mm[0]:.1f} \u00b1 {deviation.depth_mm[1]:.1f} mm to the target"
        )


class NavnodeConsoleTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer, without a node."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_a_withdrawn_tool_is_not_seen()

    def test_a_withdrawn_tool_is_not_seen(self) -> None:
        states: list[State] = []
        scene = MrmlScene(lambda deviation: None, states.append)
        line = PolyData(
            np.array([[0, 0, 0], [0, 0, 60]], np.float32), np.array([2, 0, 1], np.int64), np.zeros(0, np.int64)
        )
        scene.model("DrillAxis", line)
        scene.transform("DrillToVolume", np.eye(4))
        node = slicer.util.getNode("DrillAxis")
        self.assertTrue(node.GetDisplayNode().GetVisibility())
        scene.model("DrillAxis", None)
        self.assertFalse(node.GetDisplayNode().GetVisibility())
        self.assertEqual(slicer.util.getNode("DrillToVolume").GetClassName(), "vtkMRMLLinearTransformNode")
        self.delayDisplay("passed")
