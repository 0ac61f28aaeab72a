"""YAML of KubeDL, Kubeflow and Fluid, in the shape their own examples have."""

JOBS = """\
apiVersion: training.kubedl.io/v1alpha1
kind: TFJob
metadata:
  name: mnist
  annotations: {kubedl.io/tensorboard-config: "{}", team: vision}
spec:
  cleanPodPolicy: None
  successPolicy: AllWorkers
  tfReplicaSpecs:
    PS:
      replicas: 1
      template: {spec: {containers: [{name: tensorflow, image: mnist}]}}
    Worker:
      replicas: 3
      restartPolicy: ExitCode
      spotReplicaSpec: {spotReplicaNumber: 1, priorityClassName: spot}
      template:
        spec:
          schedulerName: volcano
          containers:
            - {name: tensorflow, image: mnist, ports: [{name: tfjob-port, containerPort: 2229}]}
---
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: bert, namespace: nlp}
spec:
  nprocPerNode: "8"
  elasticPolicy: {minReplicas: 1, maxReplicas: 4}
  runPolicy:
    backoffLimit: 3
    suspend: true
    schedulingPolicy: {minAvailable: 5, queue: research, priorityClass: high, scheduleTimeoutSeconds: 60}
  pytorchReplicaSpecs:
    Master: {template: {spec: {containers: [{name: pytorch, image: bert}]}}}
    Worker: {replicas: 4, template: {spec: {containers: [{name: pytorch, image: bert}]}}}
---
apiVersion: kubeflow.org/v1
kind: MPIJob
metadata: {name: horovod}
spec:
  slotsPerWorker: 2
  mpiReplicaSpecs:
    Launcher: {template: {spec: {containers: [{name: mpi, image: horovod}]}}}
    Worker: {replicas: 2, template: {spec: {containers: [{name: mpi, image: horovod}]}}}
---
apiVersion: training.kubedl.io/v1alpha1
kind: XGBoostJob
metadata: {name: boost}
spec:
  xgbReplicaSpecs:
    Master: {replicas: 1, template: {spec: {containers: [{name: xgboost, image: boost}]}}}
"""

DATA = """\
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: imagenet}
spec:
  mounts:
    - mountPoint: oss://images/train
      name: train
      options: {fs.oss.endpoint: oss.example}
      encryptOptions: [{name: fs.oss.accessKeyId, valueFrom: {secretKeyRef: {name: oss, key: id}}}]
    - {mountPoint: "local:///srv/labels", name: labels, path: /labels, readOnly: true}
  placement: Exclusive
  dataRestoreLocation: {path: "pvc://backup"}
---
apiVersion: data.fluid.io/v1alpha1
kind: JindoRuntime
metadata: {name: imagenet}
spec:
  replicas: 3
  jindoVersion: {image: jindo}
  tieredstore:
    levels:
      - {mediumtype: MEM, path: /dev/shm, quota: 2Gi, high: "0.99", low: "0.8"}
      - {mediumtype: SSD, volumeType: hostPath, path: "/mnt/a, /mnt/b", quotaList: "10Gi,20Gi"}
      - {mediumtype: HDD, path: "/mnt/c,/mnt/d", quota: 8Gi}
  worker: {nodeSelector: {gpu: "true"}, resources: {requests: {cpu: "1"}}}
  fuse: {cleanPolicy: OnDemand, args: ["-okernel_cache"]}
---
apiVersion: data.fluid.io/v1alpha1
kind: DataLoad
metadata: {name: warm}
spec:
  dataset: {name: imagenet, namespace: default}
  loadMetadata: true
  target: [{path: /train, replicas: 2}]
"""

CRONS = """\
apiVersion: apps.kubedl.io/v1alpha1
kind: Cron
metadata: {name: nightly}
spec:
  schedule: "30 2 * * *"
  concurrencyPolicy: Replace
  deadline: "2030-12-31T00:00:00Z"
  historyLimit: 5
  template:
    apiVersion: training.kubedl.io/v1alpha1
    kind: TFJob
    workload:
      metadata: {labels: {team: vision}}
      spec:
        tfReplicaSpecs:
          Worker: {replicas: 2, template: {spec: {containers: [{name: tensorflow, image: mnist}]}}}
---
apiVersion: training.kubedl.io/v1alpha1
kind: PyTorchJob
metadata: {name: weekly}
spec:
  cronPolicy: {schedule: "@weekly", concurrencyPolicy: Forbid}
  pytorchReplicaSpecs:
    Master: {replicas: 1, template: {spec: {containers: [{name: pytorch, image: bert}]}}}
---
apiVersion: apps.kubedl.io/v1alpha1
kind: Cron
metadata: {name: serve}
spec:
  schedule: "0 * * * *"
  template: {apiVersion: serving.kubedl.io/v1alpha1, kind: Inference, workload: {spec: {}}}
"""
